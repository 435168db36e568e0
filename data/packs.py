"""Packed latent parts: one tar per source shard, whose members hold up to 64 samples of one shape each.

A pack is four adjacent members, `SSSSSS-PPPP.latent.npy` (n, M, C, T, H, W) float16, `.id.npy` (n,) uint64,
`.label.npy` (n,) int64 and `.json`; to webdataset it is one sample. Where each sample was also encoded
mirrored left to right, `.flip.npy` holds that second view, with the shape of `.latent.npy`. Headers are plain
ustar with integer times: for 8 KiB latents they are 1 % of the bytes, where one member a sample with
webdataset's default time makes it 50 %.

The `.json` of a part's last pack also lists the samples of the source shard that are not there (undecodable,
not finite), so that the index can be made again from the tars alone.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from core.errors import WorkError
from core.files import atomic_file
from data.buckets import NO_BUCKET
from data.schema import FLIP_DTYPE, INDEX_DTYPE
from data.tars import Member, samples

LATENT_DTYPE, ID_DTYPE, LABEL_DTYPE = np.dtype("<f2"), np.dtype("<u8"), np.dtype("<i8")
PACK_SAMPLES = 64
_KINDS = ("latent.npy", "id.npy", "label.npy", "json")
_OPTIONAL = ("flip.npy",)
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Absent:
    """A sample of the source shard without latents: its row, its label, and the shape it would have had.

    shape: () where it fits no bucket.
    """

    id: int
    label: int
    shape: Shape


@dataclass(frozen=True)
class Pack:
    """Samples of one shape. latents: (n, M, C, T, H, W) float16.  ids, labels: (n,) (-1 is no label).

    absent: in the last pack of a part only; n may be 0 there.  flips: latents of the mirrored samples, shaped
    as `latents`; None where they are not stored.
    """

    latents: np.ndarray
    ids: np.ndarray
    labels: np.ndarray
    absent: tuple[Absent, ...] = ()
    flips: np.ndarray | None = None


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


def write_part(path: Path, shard: int, packs: Iterable[Pack]) -> list[Place]:
    """Publish the part of source shard number `shard`; equal packs give equal bytes.

    ValueError for latents that are not finite, or not float16.
    """
    places = []
    with atomic_file(path) as file:
        for number, pack in enumerate(packs):
            for view in (pack.latents, *([] if pack.flips is None else [pack.flips])):
                if view.dtype != LATENT_DTYPE or not np.isfinite(view).all():
                    raise ValueError(f"{path}: latents of samples {pack.ids.tolist()} are not finite float16")
            places.append(_write_pack(file, f"{shard:06d}-{number:04d}", pack))
        file.write(bytes(2 * tarfile.BLOCKSIZE))
        file.write(bytes(-file.tell() % tarfile.RECORDSIZE))
    return places


def read_part(path: Path) -> Iterator[Pack]:
    """The packs of a part, whole, by `tarfile` and NumPy: the plain twin of `data.latents.LatentReader`.

    WorkError names the member that is damaged, of another dtype or shape, or not finite.
    """
    for key, members, file in _packs(path):
        arrays = {kind: _array(path, key, kind, members[kind], file) for kind in _KINDS[:3]}
        place = _place(path, key, members, file)
        flips = _array(path, key, "flip.npy", members["flip.npy"], file) if place.flip_offset else None
        for kind, view in (("latent", arrays["latent.npy"]), ("flip", flips)):
            if view is not None and not np.isfinite(view).all():
                raise WorkError(f"{path}: {key}.{kind}.npy holds values that are not finite")
        yield Pack(arrays["latent.npy"], place.ids, place.labels, place.absent, flips)


def scan_part(path: Path) -> list[Place]:
    """Where the packs of a part lie; of the latents only the headers are read."""
    return [_place(path, key, members, file) for key, members, file in _packs(path)]


def index_rows(
    path: Path, places: Iterable[Place], *, shard: int, first: int, buckets: list[Shape]
) -> np.ndarray:
    """The index rows of one part, (samples,) INDEX_DTYPE in order of id, from id `first` on without a gap.

    buckets: the dataset's table of shapes.  Absent samples get offset and size 0. WorkError if an id is
    missing, twice there, or of another part.
    """
    rows = [np.zeros(0, INDEX_DTYPE)]
    for place in places:
        size = int(np.prod(place.shape)) * LATENT_DTYPE.itemsize
        new = np.zeros(len(place.ids) + len(place.absent), INDEX_DTYPE)
        here, missing = new[: len(place.ids)], new[len(place.ids) :]
        here["id"], here["label"], here["size"] = place.ids, place.labels, size
        here["offset"] = place.offset + size * np.arange(len(here))
        here["bucket"] = buckets.index(place.shape) if len(here) else 0
        for row, sample in zip(missing, place.absent, strict=True):
            row["id"], row["label"] = sample.id, sample.label
            row["bucket"] = buckets.index(sample.shape) if sample.shape else NO_BUCKET
        rows.append(new)
    joined = np.concatenate(rows)
    joined = joined[np.argsort(joined["id"], kind="stable")]
    joined["shard"] = shard
    if joined["id"].tolist() != list(range(first, first + len(joined))):
        raise WorkError(f"{path}: its sample ids are not {first} to {first + len(joined) - 1}, each once")
    return joined


def flip_rows(places: Iterable[Place], rows: np.ndarray) -> np.ndarray:
    """Where the mirrored view of every sample of a part begins in the tar, (samples,) <u8; 0 is nowhere.

    rows: the part's index rows, as `index_rows` makes them; a mirrored sample has as many bytes as the other.
    """
    offsets = np.zeros(len(rows), FLIP_DTYPE)
    for place in places:
        if place.flip_offset:
            here = np.searchsorted(rows["id"], place.ids)
            offsets[here] = rows["offset"][here] + np.uint64(place.flip_offset - place.offset)
    return offsets


def _write_pack(file: IO[bytes], key: str, pack: Pack) -> Place:
    about = {
        "shape": pack.latents.shape[1:],
        "samples": len(pack.ids),
        "absent": [asdict(sample) for sample in pack.absent],
    }
    offset = _write(file, f"{key}.latent.npy", _header(pack.latents, LATENT_DTYPE), pack.latents)
    flip_offset = 0
    if pack.flips is not None:
        flip_offset = _write(file, f"{key}.flip.npy", _header(pack.flips, LATENT_DTYPE), pack.flips)
    for kind, array, dtype in (("id", pack.ids, ID_DTYPE), ("label", pack.labels, LABEL_DTYPE)):
        _write(file, f"{key}.{kind}.npy", _header(array, dtype), array.astype(dtype))
    _write(file, f"{key}.json", json.dumps(about, sort_keys=True).encode())
    return Place(pack.latents.shape[1:], pack.ids, pack.labels, offset, pack.absent, flip_offset)


def _header(array: np.ndarray, dtype: np.dtype) -> bytes:
    header = io.BytesIO()
    about = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": array.shape}
    np.lib.format.write_array_header_1_0(header, about)
    return header.getvalue()


def _write(file: IO[bytes], name: str, head: bytes, body: np.ndarray | None = None) -> int:
    """Append a member; returns where `body` begins."""
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(head) + (0 if body is None else body.nbytes), 0o644
    file.write(info.tobuf(tarfile.USTAR_FORMAT) + head)
    start = file.tell()
    if body is not None and body.size:
        file.write(np.ascontiguousarray(body).data.cast("B"))
    file.write(bytes(-info.size % tarfile.BLOCKSIZE))
    return start


def _packs(path: Path) -> Iterator[tuple[str, dict[str, Member], IO[bytes]]]:
    """(key, member of each kind, the open file) of every pack; WorkError for any damage to the archive."""
    with open(path, "rb") as file:
        for sample in samples(path):
            if sample.refused or set(sample.members) - set(_OPTIONAL) != set(_KINDS):
                reason = sample.refused or f"its members are {', '.join(sorted(sample.members))}"
                raise WorkError(f"{path}: {sample.key} is no pack of latents: {reason}")
            yield sample.key, sample.members, file


def _place(path: Path, key: str, members: dict[str, Member], file: IO[bytes]) -> Place:
    about = _about(path, key, members["json"], file)
    ids = _array(path, key, "id.npy", members["id.npy"], file)
    labels = _array(path, key, "label.npy", members["label.npy"], file)
    shape, offset = _shape(path, key, "latent.npy", members["latent.npy"], file)
    if shape[1:] != about[0] or not len(ids) == len(labels) == shape[0] or len(shape) != 6:
        raise WorkError(f"{path}: the members of pack {key} do not agree in shape")
    flip_offset = 0
    if (flip := members.get("flip.npy")) is not None:
        flip_shape, flip_offset = _shape(path, key, "flip.npy", flip, file)
        if flip_shape != shape:
            raise WorkError(f"{path}: {key}.flip.npy is {flip_shape}, but {key}.latent.npy is {shape}")
    return Place(shape[1:], ids, labels, offset, about[1], flip_offset)


def _about(path: Path, key: str, member: Member, file: IO[bytes]) -> tuple[Shape, tuple[Absent, ...]]:
    file.seek(member.content)
    try:
        about = json.loads(file.read(member.size))
        absent = [Absent(int(a["id"]), int(a["label"]), tuple(a["shape"])) for a in about["absent"]]
        return tuple(about["shape"]), tuple(absent)
    except (ValueError, KeyError, TypeError) as error:
        raise WorkError(f"{path}: {key}.json is damaged ({type(error).__name__}: {error})") from None


def _array(path: Path, key: str, kind: str, member: Member, file: IO[bytes]) -> np.ndarray:
    shape, offset = _shape(path, key, kind, member, file)
    dtype = _DTYPES[kind]
    file.seek(offset)
    return np.frombuffer(file.read(int(np.prod(shape)) * dtype.itemsize), dtype).reshape(shape)


def _shape(path: Path, key: str, kind: str, member: Member, file: IO[bytes]) -> tuple[Shape, int]:
    """The shape of a .npy member and where its data begin; no object is ever unpickled."""
    file.seek(member.content)
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("not version 1.0 of the format")
        shape, fortran, dtype = np.lib.format.read_array_header_1_0(file)
    except ValueError as error:
        raise WorkError(f"{path}: {key}.{kind} is no .npy array ({error})") from None
    offset = file.tell()
    expected = _DTYPES[kind]
    if dtype != expected or fortran:
        raise WorkError(f"{path}: {key}.{kind} holds {dtype}, expected {expected} in C order")
    if offset - member.content + int(np.prod(shape)) * expected.itemsize != member.size:
        raise WorkError(
            f"{path}: {key}.{kind} has {member.size} bytes, which is not what shape {shape} takes"
        )
    return shape, offset


_DTYPES: dict[str, Any] = {
    "latent.npy": LATENT_DTYPE,
    "flip.npy": LATENT_DTYPE,
    "id.npy": ID_DTYPE,
    "label.npy": LABEL_DTYPE,
}
