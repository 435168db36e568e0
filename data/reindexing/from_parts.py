"""Make the index of a latent cache, and the files beside it, again from its tars alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.dataset.shared.shard_table import ShardRecord
from data.latent.assembly import text_facts
from data.latent.caption_table import CaptionTable, captions_of, with_several
from data.latent.checksums import range_crcs
from data.latent.pack_reading import scan_part
from data.latent.pack_rows import (
    Ranges,
    feature_ranges,
    flip_rows,
    index_rows,
    still_ranges,
    text_rows,
)
from data.latent.packs import Place, Shape


class Part(NamedTuple):
    """A part of a cache: its tar, the packs in it, and its rows of the index."""

    path: Path
    places: list[Place]
    rows: np.ndarray


def scanned(folder: Path, shards: Sequence[ShardRecord], index: np.ndarray) -> list[Part]:
    """Return the parts of a cache, whose tars are read here."""
    rows = np.split(index, np.cumsum([shard.samples for shard in shards])[:-1])
    paths = [folder / shard.name for shard in shards]
    return [Part(path, scan_part(path), here) for path, here in zip(paths, rows, strict=True)]


def sidecars_from_parts(
    folder: Path, shards: Sequence[ShardRecord], index: np.ndarray, made_from: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the files beside the index, row by row, from the tars alone, as `write_index` takes them.

    Also what the manifest says of the text.
    """
    parts = scanned(folder, shards, index)
    flips, texts = views_from_parts(parts)
    features, stills = (_beside_from_parts(parts, ranges) for ranges in (feature_ranges, still_ranges))
    stops = np.cumsum([len(part.rows) for part in parts]).tolist()
    width = made_from["text"]["width"] if texts is not None else 0
    crcs = []
    for part, stop in zip(parts, stops, strict=True):
        start = stop - len(part.rows)
        flips_here, texts_here = (None if t is None else t[start:stop] for t in (flips, texts))
        here = [b and (b[0][start:stop], b[1][start:stop]) for b in (features, stills)]
        crcs.append(range_crcs(part.path, part.rows, flips_here, texts_here, width, *here))
    captions = _captions_from_parts(parts) if texts is not None else None
    arrays = captions.arrays() if captions else None
    files = {"flips": flips, "texts": texts, "crcs": np.concatenate(crcs), "captions": arrays}
    beside = {"features": features and features[0], "stills": stills and stills[0]}
    return files | beside, text_facts(texts, captions)


def _captions_from_parts(parts: Sequence[Part]) -> CaptionTable | None:
    if not any(with_several(part.places) for part in parts):
        return None
    return CaptionTable.joined([captions_of(*part) for part in parts])


def _beside_from_parts(
    parts: Sequence[Part], ranges: Callable[[Sequence[Place], np.ndarray], Ranges]
) -> Ranges | None:
    """Rebuild where features or stills lie from the tars alone; None where no part holds any."""
    found = [ranges(part.places, part.rows) for part in parts]
    offsets, sizes = (np.concatenate(column) for column in zip(*found, strict=True))
    return (offsets, sizes) if offsets.any() else None


def views_from_parts(parts: Sequence[Part]) -> tuple[np.ndarray | None, np.ndarray | None]:
    """Rebuild the contents of `flip.npy` and `text.npy` from the tars alone; None for what no part holds."""
    flips = np.concatenate([flip_rows(part.places, part.rows) for part in parts])
    texts = np.concatenate([text_rows(part.places, part.rows) for part in parts])
    has_text = any(place.text is not None for part in parts for place in part.places)
    return flips if flips.any() else None, texts if has_text else None


def index_from_parts(folder: Path, shards: Sequence[ShardRecord]) -> tuple[np.ndarray, list[Shape]]:
    """Rebuild the index of a cache and its table of shapes from the tars alone, equal to the first ones.

    WorkError for a part that is damaged, or does not hold the rows that follow those of the part before.
    """
    places = [scan_part(folder / shard.name) for shard in shards]
    every = [place for part in places for place in part]
    shapes = {place.shape for place in every if len(place.ids)}
    shapes |= {sample.shape for place in every for sample in place.absent if sample.shape}
    table = sorted(shapes)
    rows, first = [], 0
    for number, (shard, part) in enumerate(zip(shards, places, strict=True)):
        rows.append(index_rows(folder / shard.name, part, shard=number, first=first, buckets=table))
        first += len(rows[-1])
    return np.concatenate(rows), table
