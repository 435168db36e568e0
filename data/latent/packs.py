"""Packed latent parts: one tar per source shard, whose members hold up to 64 samples of one shape each.

A pack is four adjacent members, `SSSSSS-PPPP.latent.npy` (n, M, C, T, H, W) float16, `.id.npy` (n,) uint64,
`.label.npy` (n,) int64 and `.json`; to webdataset it is one sample. Where each sample was also encoded
mirrored left to right, `.flip.npy` holds that second view, with the shape of `.latent.npy`. Where samples
have text, `.text.npy` (tokens, D) float16 holds, unpadded, the embeddings of the captions that no pack of
the part had before, and `.text_rows.npy` (n, 2) uint32 each sample's first row, counted over the `.text.npy`
of all packs of the part, and its number of rows; 0 rows are no text.
Headers are plain ustar with integer times: for 8 KiB latents they are 1 % of the bytes, where one member a
sample with webdataset's default time makes it 50 %.

The `.json` of a part's last pack also lists the samples of the source shard that are not there (undecodable,
not finite), so that the index can be made again from the tars alone.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, TypedDict

import numpy as np

from core.errors import WorkError
from core.files import atomic_file, regular
from core.reading import json_files
from core.reading.json_schema import I32, U32, U64
from data.dataset.tars import Member, samples
from data.latent.members import (
    array_place,
    is_finite,
    read_array,
    write_array,
    write_member,
)

LATENT_DTYPE, ID_DTYPE, LABEL_DTYPE = np.dtype("<f2"), np.dtype("<u8"), np.dtype("<i8")
TEXT_RANGE_DTYPE = np.dtype("<u4")
PACK_SAMPLES = 64
_KINDS = ("latent.npy", "id.npy", "label.npy", "json")
_TEXT = ("text.npy", "text_rows.npy")
Shape = tuple[int, ...]
_Sides = tuple[U32, ...]


@dataclass(frozen=True)
class Absent:
    """A sample of the source shard without latents: its row, its label, and the shape it would have had.

    shape: () where it fits no bucket.
    """

    id: U64
    label: I32
    shape: _Sides


class _About(TypedDict):
    """The `.json` of a pack."""

    shape: _Sides
    samples: U32
    absent: tuple[Absent, ...]


@dataclass(frozen=True)
class Text:
    """Embedded captions. tokens: (rows, D) float16, of the captions that no pack of the part had before.

    ranges: (n, 2) first row and rows of a sample, where rows are counted over all packs of the part.
    """

    tokens: np.ndarray
    ranges: np.ndarray


@dataclass(frozen=True)
class Pack:
    """Samples of one shape. latents: (n, M, C, T, H, W) float16.  ids, labels: (n,) (-1 is no label).

    absent: in the last pack of a part only; n may be 0 there.  flips: latents of the mirrored samples, shaped
    as `latents`; None where they are not stored.  text: likewise of their captions.
    """

    latents: np.ndarray
    ids: np.ndarray
    labels: np.ndarray
    absent: tuple[Absent, ...] = ()
    flips: np.ndarray | None = None
    text: Text | None = None


@dataclass(frozen=True)
class TextPlace:
    """Where a pack's text lies: offset of the first token's bytes, how many, width D, ranges as in `Text`."""

    offset: int
    rows: int
    width: int
    ranges: np.ndarray


@dataclass(frozen=True)
class Place:
    """Where a pack lies: the shape of its samples (M, C, T, H, W), ids, labels, absent ones as in `Pack`.

    offset: where the first sample's bytes begin in the tar; the others follow without gaps.  flip_offset:
    likewise of the mirrored samples; 0 where they are not stored.
    """

    shape: Shape
    ids: np.ndarray
    labels: np.ndarray
    offset: int
    absent: tuple[Absent, ...]
    flip_offset: int = 0
    text: TextPlace | None = None


def write_part(path: Path, shard: int, packs: Iterable[Pack]) -> list[Place]:
    """Publish the part of source shard number `shard`; equal packs give equal bytes.

    ValueError for latents that are not finite, or not float16.
    """
    with atomic_file(path) as file:
        return write_packs(file, shard, packs)


def write_packs(file: IO[bytes], shard: int, packs: Iterable[Pack]) -> list[Place]:
    """The bytes of a part, into an open file; ValueError as `write_part`."""
    places = []
    for number, pack in enumerate(packs):
        text = None if pack.text is None else pack.text.tokens
        for name, array in (("latents", pack.latents), ("mirrored latents", pack.flips), ("text", text)):
            if array is not None and (array.dtype != LATENT_DTYPE or not is_finite(array)):
                ids = pack.ids.tolist()
                raise ValueError(f"part {shard}: {name} of samples {ids} are not finite float16")
        places.append(_write_pack(file, f"{shard:06d}-{number:04d}", pack))
    file.write(bytes(2 * tarfile.BLOCKSIZE))
    file.write(bytes(-file.tell() % tarfile.RECORDSIZE))
    return places


def read_part(path: Path) -> Iterator[Pack]:
    """The packs of a part, whole, by `tarfile` and NumPy: the plain twin of
    `data.latent.reading.LatentReader`.

    WorkError names the member that is damaged, of another dtype or shape, or not finite.
    """
    for key, members, file in _packs(path):
        place = _place(path, key, members, file)
        arrays: dict[str, np.ndarray] = {}
        for kind in ("latent.npy", "flip.npy", "text.npy"):
            if kind in members:
                name = f"{key}.{kind}"
                arrays[kind] = read_array(path, name, members[kind], file, LATENT_DTYPE)
                if not is_finite(arrays[kind]):
                    raise WorkError(f"{path}: {name} holds values that are not finite")
        text = Text(arrays["text.npy"], place.text.ranges) if place.text is not None else None
        flips = arrays.get("flip.npy")
        yield Pack(arrays["latent.npy"], place.ids, place.labels, place.absent, flips, text)


def scan_part(path: Path) -> list[Place]:
    """Where the packs of a part lie; of the latents only the headers are read."""
    places = [_place(path, key, members, file) for key, members, file in _packs(path)]
    texts = [place.text for place in places if place.text is not None]
    ends = np.cumsum([text.rows for text in texts])
    for text in texts:
        first, count = text.ranges[text.ranges[:, 1] > 0].astype(np.int64).T
        pack = np.searchsorted(ends, first, side="right")
        if (pack == len(ends)).any() or (first + count > ends[pack]).any():
            raise WorkError(f"{path}: the rows of a sample's text do not lie in one of its packs")
    return places


def _write_pack(file: IO[bytes], key: str, pack: Pack) -> Place:
    about = {
        "shape": pack.latents.shape[1:],
        "samples": len(pack.ids),
        "absent": [asdict(sample) for sample in pack.absent],
    }
    offset = write_array(file, f"{key}.latent.npy", pack.latents, LATENT_DTYPE)
    flip_offset, text = 0, None
    if pack.flips is not None:
        flip_offset = write_array(file, f"{key}.flip.npy", pack.flips, LATENT_DTYPE)
    for kind, array, dtype in (("id", pack.ids, ID_DTYPE), ("label", pack.labels, LABEL_DTYPE)):
        write_array(file, f"{key}.{kind}.npy", array, dtype)
    if pack.text is not None:
        write_array(file, f"{key}.text_rows.npy", pack.text.ranges, TEXT_RANGE_DTYPE)
        start = write_array(file, f"{key}.text.npy", pack.text.tokens, LATENT_DTYPE)
        text = TextPlace(start, len(pack.text.tokens), pack.text.tokens.shape[1], pack.text.ranges)
    write_member(file, f"{key}.json", json.dumps(about, sort_keys=True).encode())
    return Place(pack.latents.shape[1:], pack.ids, pack.labels, offset, pack.absent, flip_offset, text)


def _packs(path: Path) -> Iterator[tuple[str, dict[str, Member], IO[bytes]]]:
    """(key, member of each kind, the open file) of every pack; WorkError for any damage to the archive."""
    with open(path, "rb", opener=regular) as file:
        for sample in samples(path):
            more = set(sample.members) - set(_KINDS)
            known = more - {"flip.npy"} in (set(), set(_TEXT))
            if sample.refused or not known or not set(_KINDS) <= set(sample.members):
                reason = sample.refused or f"its members are {', '.join(sorted(sample.members))}"
                raise WorkError(f"{path}: {sample.key} is no pack of latents: {reason}")
            yield sample.key, sample.members, file


def _place(path: Path, key: str, members: dict[str, Member], file: IO[bytes]) -> Place:
    about = _about(path, key, members["json"], file)
    ids = read_array(path, f"{key}.id.npy", members["id.npy"], file, ID_DTYPE)
    labels = read_array(path, f"{key}.label.npy", members["label.npy"], file, LABEL_DTYPE)
    shape, offset = array_place(path, f"{key}.latent.npy", members["latent.npy"], file, LATENT_DTYPE)
    if shape[1:] != about[0] or not len(ids) == len(labels) == shape[0] or len(shape) != 6:
        raise WorkError(f"{path}: the members of pack {key} do not agree in shape")
    flip_offset = 0
    if (flip := members.get("flip.npy")) is not None:
        flip_shape, flip_offset = array_place(path, f"{key}.flip.npy", flip, file, LATENT_DTYPE)
        if flip_shape != shape:
            raise WorkError(f"{path}: {key}.flip.npy is {flip_shape}, but {key}.latent.npy is {shape}")
    text = _text_place(path, key, members, file, len(ids)) if "text.npy" in members else None
    return Place(shape[1:], ids, labels, offset, about[1], flip_offset, text)


def _text_place(path: Path, key: str, members: dict[str, Member], file: IO[bytes], count: int) -> TextPlace:
    ranges = read_array(path, f"{key}.text_rows.npy", members["text_rows.npy"], file, TEXT_RANGE_DTYPE)
    shape, offset = array_place(path, f"{key}.text.npy", members["text.npy"], file, LATENT_DTYPE)
    if ranges.shape != (count, 2) or len(shape) != 2:
        raise WorkError(f"{path}: the text of pack {key} does not fit its samples")
    return TextPlace(offset, shape[0], shape[1], ranges)


def _about(path: Path, key: str, member: Member, file: IO[bytes]) -> tuple[Shape, tuple[Absent, ...]]:
    file.seek(member.content)
    about = json_files.parse(file.read(member.size), _About, f"{path}: {key}.json")
    return about["shape"], about["absent"]
