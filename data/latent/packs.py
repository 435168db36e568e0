"""Packed latent parts: one tar per source shard, whose members hold up to 64 samples of one shape each.

A pack is four adjacent members, `SSSSSS-PPPP.latent.npy` (n, M, C, T, H, W) float16, `.id.npy` (n,) uint64,
`.label.npy` (n,) int64 and `.json`; to webdataset it is one sample. Where each sample was also encoded
mirrored left to right, `.flip.npy` holds that second view, with the shape of `.latent.npy`. Where samples
have text, `.text.npy` (tokens, D) float16 holds, unpadded, the embeddings of the captions that no pack of
the part had before, and `.text_rows.npy` (n, 2) uint32 each sample's first row, counted over the `.text.npy`
of all packs of the part, and its number of rows; 0 rows are no text. Where a sample of the pack has several
captions, or one with a name, `.captions.npy` (captions,) CAPTION_DTYPE lists all captions of all samples, and
the `.json` has the names. Latents are float32 where the `.json` says so. Where a picture encoder's features
are stored, `.features.npy` (n, V, F, h, w, E) float16 holds those of every sample, one view after the other:
plain, then mirrored where there is a `.flip.npy`. Where stills are stored, `.still.npy` (n, V, 1, C, 1, H, W)
holds that of each clip's last picture, of the dtype of the latents, one view after the other likewise: the
mean of the last latent frame of a clip of the same length in which that picture stands still.
Headers are plain ustar with integer times: for 8 KiB latents they are 1 % of the bytes, where one member a
sample with webdataset's default time makes it 50 %.

The `.json` of a part's last pack also lists the samples of the source shard that are not there (undecodable,
not finite), so that the index can be made again from the tars alone.
"""

from __future__ import annotations

import json
import math
import tarfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from core.files import atomic_file
from core.reading.json_scalars import I32, U32, U64
from data.latent.members import (
    is_finite,
    write_array,
    write_member,
)

LATENT_DTYPE, ID_DTYPE, LABEL_DTYPE = np.dtype("<f2"), np.dtype("<u8"), np.dtype("<i8")
LATENT_DTYPES = (LATENT_DTYPE, np.dtype("<f4"))
TEXT_RANGE_DTYPE = np.dtype("<u4")
# sample: its place in the pack.  first, rows: as in `Text.ranges`.  name: number of its name in the `.json`.
CAPTION_DTYPE = np.dtype(
    [("sample", "<u4"), ("first", "<u4"), ("rows", "<u4"), ("name", "<u4"), ("weight", "<f4")]
)
NO_CAPTIONS = np.zeros(0, CAPTION_DTYPE)
PACK_SAMPLES = 64
CAPTIONS_MEMBER, FEATURES_MEMBER, STILLS_MEMBER = "captions.npy", "features.npy", "still.npy"
Shape = tuple[int, ...]
Sides = tuple[U32, ...]


@dataclass(frozen=True)
class Absent:
    """A sample of the source shard without latents: its row, its label, and the shape it would have had.

    shape: () where it fits no bucket.
    """

    id: U64
    label: I32
    shape: Sides


@dataclass(frozen=True)
class Text:
    """Embedded captions. tokens: (rows, D) float16, of the captions that no pack of the part had before.

    ranges: (n, 2) first row and rows of a sample, where rows are counted over all packs of the part.
    captions: CAPTION_DTYPE, all captions where a sample has several, or one with a name; else none.
    """

    tokens: np.ndarray
    ranges: np.ndarray
    captions: np.ndarray = field(default_factory=lambda: NO_CAPTIONS)
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Pack:
    """Samples of one shape. latents: (n, M, C, T, H, W), of LATENT_DTYPES.  ids, labels: (n,); -1 is none.

    absent: in the last pack of a part only; n may be 0 there.  flips: latents of the mirrored samples, shaped
    as `latents`; None where they are not stored.  text: likewise of their captions.  features: likewise of
    the pictures, (n, V, F, h, w, E) float16 of V views.  stills: of clips' last pictures, shaped
    (n, V, *still_shape(shape)).
    """

    latents: np.ndarray
    ids: np.ndarray
    labels: np.ndarray
    absent: tuple[Absent, ...] = ()
    flips: np.ndarray | None = None
    text: Text | None = None
    features: np.ndarray | None = None
    stills: np.ndarray | None = None


@dataclass(frozen=True)
class TextPlace:
    """A pack's text in its part: offset of the first token's bytes, rows, width D; the rest as in `Text`."""

    offset: int
    rows: int
    width: int
    ranges: np.ndarray
    captions: np.ndarray = field(default_factory=lambda: NO_CAPTIONS)
    names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Place:
    """The place of a pack: the shape of its samples (M, C, T, H, W), ids, labels, absent ones as in `Pack`.

    offset: where the first sample's bytes begin in the tar; the others follow without gaps.  flip_offset:
    likewise of the mirrored samples; 0 where they are not stored.  feature_offset: likewise of the features;
    feature_shape: of those of a sample, (V, F, h, w, E).  still_offset: likewise of the stills.
    """

    shape: Shape
    ids: np.ndarray
    labels: np.ndarray
    offset: int
    absent: tuple[Absent, ...]
    flip_offset: int = 0
    text: TextPlace | None = None
    dtype: np.dtype = LATENT_DTYPE
    feature_offset: int = 0
    feature_shape: Shape = ()
    still_offset: int = 0

    @property
    def views(self) -> int:
        """How many views of a sample there are: plain, and mirrored."""
        return 1 + bool(self.flip_offset)

    @property
    def feature_bytes(self) -> int:
        """Bytes of the features of one view of a sample; 0 where none are stored."""
        return math.prod(self.feature_shape[1:]) * LATENT_DTYPE.itemsize if self.feature_offset else 0

    @property
    def still_bytes(self) -> int:
        """Bytes of the still of one view of a sample."""
        return self.dtype.itemsize * math.prod(still_shape(self.shape))


def still_shape(shape: Shape) -> Shape:
    """Return the shape of the still of latents (M, C, T, H, W): the mean of one latent frame."""
    _, channels, _, height, width = shape
    return 1, channels, 1, height, width


def write_part(path: Path, shard: int, packs: Iterable[Pack]) -> list[Place]:
    """Publish the part of source shard number `shard`; equal packs give equal bytes.

    ValueError for latents that are not finite, or not of LATENT_DTYPES.
    """
    with atomic_file(path) as file:
        return write_packs(file, shard, packs)


def write_packs(file: IO[bytes], shard: int, packs: Iterable[Pack]) -> list[Place]:
    """Write the packs of a part into an open file and return their places; ValueError as `write_part`."""
    places = []
    for number, pack in enumerate(packs):
        text = None if pack.text is None else pack.text.tokens
        for name, array in (
            ("latents", pack.latents),
            ("mirrored latents", pack.flips),
            ("text", text),
            ("features", pack.features),
            ("stills", pack.stills),
        ):
            dtype = LATENT_DTYPE if name in ("text", "features") else pack.latents.dtype
            if array is not None and not (array.dtype == dtype in LATENT_DTYPES and is_finite(array)):
                ids = pack.ids.tolist()
                raise ValueError(f"part {shard}: {name} of samples {ids} are not finite {dtype}")
        places.append(_write_pack(file, f"{shard:06d}-{number:04d}", pack))
    file.write(bytes(2 * tarfile.BLOCKSIZE))
    file.write(bytes(-file.tell() % tarfile.RECORDSIZE))
    return places


def _write_pack(file: IO[bytes], key: str, pack: Pack) -> Place:
    about: dict[str, Any] = {
        "shape": pack.latents.shape[1:],
        "samples": len(pack.ids),
        "absent": [asdict(sample) for sample in pack.absent],
    }
    dtype = pack.latents.dtype
    if dtype != LATENT_DTYPE:
        about["dtype"] = dtype.name
    offset = write_array(file, f"{key}.latent.npy", pack.latents, dtype)
    flip_offset, text = 0, None
    if pack.flips is not None:
        flip_offset = write_array(file, f"{key}.flip.npy", pack.flips, dtype)
    for kind, array, number in (("id", pack.ids, ID_DTYPE), ("label", pack.labels, LABEL_DTYPE)):
        write_array(file, f"{key}.{kind}.npy", array, number)
    if pack.text is not None:
        write_array(file, f"{key}.text_rows.npy", pack.text.ranges, TEXT_RANGE_DTYPE)
        start = write_array(file, f"{key}.text.npy", pack.text.tokens, LATENT_DTYPE)
        if len(pack.text.captions):
            write_array(file, f"{key}.{CAPTIONS_MEMBER}", pack.text.captions, CAPTION_DTYPE)
            about["caption_names"] = list(pack.text.names)
        found = pack.text
        rows, width = found.tokens.shape
        text = TextPlace(start, rows, width, found.ranges, found.captions, found.names)
    feature_offset, feature_shape = 0, ()
    if pack.features is not None:
        feature_offset = write_array(file, f"{key}.{FEATURES_MEMBER}", pack.features, LATENT_DTYPE)
        feature_shape = pack.features.shape[1:]
    still_offset = 0
    if pack.stills is not None:
        still_offset = write_array(file, f"{key}.{STILLS_MEMBER}", pack.stills, dtype)
    write_member(file, f"{key}.json", json.dumps(about, sort_keys=True).encode())
    return Place(
        pack.latents.shape[1:],
        pack.ids,
        pack.labels,
        offset,
        pack.absent,
        flip_offset,
        text,
        dtype,
        feature_offset,
        feature_shape,
        still_offset,
    )
