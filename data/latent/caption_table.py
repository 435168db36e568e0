"""The tables of several captions a sample in a cache: `caption_spans.npy` and `caption_rows.npy`.

A cache in which no sample has several captions, or one with a name, has neither file: `text.npy` says all.
Where there are several, `text.npy` has the first of each sample, and these two files have every one.
"""

from __future__ import annotations

import mmap
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypedDict

import numpy as np

from core.files import regular
from core.reading.json_scalars import U16, U32, U64
from data.dataset.schema import CAPTION_ROW_DTYPE, CAPTION_SPAN_DTYPE
from data.latent.pack_rows import token_offsets
from data.latent.packs import CAPTION_DTYPE, LATENT_DTYPE, Place, Text


class CaptionLists(TypedDict):
    """A `CaptionTable` in a receipt."""

    counts: list[U16]
    rows: list[tuple[U64, U16, U32, float, U32]]
    names: list[str]


@dataclass(frozen=True)
class CaptionTable:
    """The captions of a part or a cache. counts: (samples,) captions of each sample.

    rows: (captions,) CAPTION_ROW_DTYPE, those of a sample side by side.  names: that rows give by number.
    """

    counts: np.ndarray
    rows: np.ndarray
    names: tuple[str, ...]

    def as_json(self) -> CaptionLists:
        """Return the entries of a receipt."""
        return {"counts": self.counts.tolist(), "rows": self.rows.tolist(), "names": list(self.names)}

    @classmethod
    def from_json(cls, values: CaptionLists) -> Self:
        """Read what `as_json` returned."""
        rows = np.array([tuple(row) for row in values["rows"]], CAPTION_ROW_DTYPE)
        return cls(np.array(values["counts"], np.int64), rows, tuple(values["names"]))

    @classmethod
    def joined(cls, tables: Sequence[CaptionTable]) -> Self:
        """Join the tables of parts, in their order; names are numbered anew, in ascending order."""
        names = sorted({name for table in tables for name in table.names})
        rows = []
        for table in tables:
            numbers = np.array([names.index(name) for name in table.names], np.uint32)
            here = table.rows.copy()
            here["name"] = numbers[here["name"]] if len(here) else here["name"]
            rows.append(here)
        return cls(np.concatenate([t.counts for t in tables]), np.concatenate(rows), tuple(names))

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the contents of the two files."""
        spans = np.zeros(len(self.counts), CAPTION_SPAN_DTYPE)
        spans["count"] = self.counts
        spans["first"] = np.cumsum(self.counts) - self.counts
        return spans, self.rows

    def describe(self) -> dict[str, Any]:
        """Return what the manifest says of them, as `captions`."""
        return {
            "rows": len(self.rows),
            "most": int(self.counts.max(initial=0)),
            "several": int((self.counts > 1).sum()),
            "names": list(self.names),
        }


def with_several(places: Sequence[Place]) -> bool:
    """Return whether a part holds samples with several captions, or names of captions."""
    return any(place.text is not None and len(place.text.captions) for place in places)


def captions_of(path: Path, places: Sequence[Place], rows: np.ndarray) -> CaptionTable:
    """Return the captions of the samples of one part. rows: its index rows."""
    names = sorted({"", *(name for p in places if p.text is not None for name in p.text.names)})
    found = []
    for place in places:
        if place.text is None or not len(place.ids):
            continue
        text = place.text
        captions = text.captions if len(text.captions) else first_captions(text.ranges)
        own = np.array([names.index(name) for name in text.names or ("",)], np.uint32)
        here = np.zeros(len(captions), [("sample", "<i8"), *_fields(CAPTION_ROW_DTYPE)])
        here["sample"] = np.searchsorted(rows["id"], place.ids)[captions["sample"]]
        here["offset"] = token_offsets(places, captions["first"], captions["rows"])
        here["tokens"], here["weight"] = captions["rows"], captions["weight"]
        here["name"] = own[captions["name"]]
        here["crc"] = _crcs(path, here, text.width * LATENT_DTYPE.itemsize)
        found.append(here)
    every = np.concatenate(found) if found else np.zeros(0, [("sample", "<i8"), *_fields(CAPTION_ROW_DTYPE)])
    every = every[np.argsort(every["sample"], kind="stable")]
    table = np.zeros(len(every), CAPTION_ROW_DTYPE)
    for name in CAPTION_ROW_DTYPE.names or ():
        table[name] = every[name]
    return CaptionTable(np.bincount(every["sample"], minlength=len(rows)), table, tuple(names))


def first_captions(ranges: np.ndarray) -> np.ndarray:
    """Return the captions, (captions,) CAPTION_DTYPE, of samples with at most one. ranges: as in `Text`."""
    samples = np.flatnonzero(ranges[:, 1])
    captions = np.zeros(len(samples), CAPTION_DTYPE)
    captions["sample"], captions["weight"] = samples, 1
    captions["first"], captions["rows"] = ranges[samples].T
    return captions


def text_of(tokens: np.ndarray, captions: Sequence[Sequence[tuple[int, int, str, float]]]) -> Text:
    """Return the text of a pack. captions: (first row, rows, name, weight) of all captions of a sample."""
    ranges = np.array([c[0][:2] if c else (0, 0) for c in captions], np.uint32).reshape(-1, 2)
    if not any(len(c) > 1 or any(name for _, _, name, _ in c) for c in captions):
        return Text(tokens, ranges)
    names = sorted({name for c in captions for _, _, name, _ in c})
    rows = [
        (sample, first, count, names.index(name), weight)
        for sample, c in enumerate(captions)
        for first, count, name, weight in c
    ]
    return Text(tokens, ranges, np.array(rows, CAPTION_DTYPE), tuple(names))


def _fields(dtype: np.dtype) -> list[tuple[str, np.dtype]]:
    return [(name, dtype[name]) for name in dtype.names or ()]


def _crcs(path: Path, rows: np.ndarray, token_bytes: int) -> list[int]:
    """Return the CRC-32 of the embeddings of each caption."""
    ends = rows["offset"].astype(np.int64) + rows["tokens"].astype(np.int64) * token_bytes
    with (
        open(path, "rb", opener=regular) as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as data,
    ):
        places = zip(rows["offset"].tolist(), ends.tolist(), strict=True)
        return [zlib.crc32(data[start:end]) if end > start else 0 for start, end in places]
