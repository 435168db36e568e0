"""Read latent tars from elsewhere, one `.npy` member a sample: places of values, and which are usable."""

from __future__ import annotations

import functools
import operator
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np

from core.errors import UserError, WorkError
from core.files import regular
from data.dataset.quarantine import QuarantineEntry
from data.dataset.schema import INDEX_DTYPE
from data.dataset.tars import Member, TarSample, arrays, read_range, samples
from data.latent.members import array_place, is_finite
from data.latent.normalising import LatentSums
from data.latent.packs import LATENT_DTYPE, Shape
from data.order.buckets import NO_BUCKET
from data.raw.annotations.captions import read_tar_annotation
from data.raw.annotations.labels import with_labels
from data.raw.item import Item

FOREIGN = {"encoder": "not stated", "tars": "from elsewhere"}  # the recorded origin of such latents
_SUMMED = 64  # samples whose sums are taken together


@dataclass
class ForeignLatents:
    """The contents of the tars. counts: samples of each tar. items: label and class of every sample.

    places: (shard, offset, shape) of every sample's values, None for one that cannot be used.
    """

    counts: list[int] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    places: list[tuple[int, int, Shape] | None] = field(default_factory=list)
    sums: list[LatentSums] = field(default_factory=list)

    @property
    def refused(self) -> list[QuarantineEntry]:
        """Samples that are set aside, by row."""
        return [
            QuarantineEntry(row, item.refused[0], f"{item.name}: {item.refused[1]}")
            for row, item in enumerate(self.items)
            if item.refused is not None
        ]

    def statistics(self) -> dict[str, Any]:
        """Return mean and deviation per channel, as `LatentSums` gives them.

        UserError if no sample is usable.
        """
        if not self.sums:
            first = self.refused[0].error if self.items else "the tars are empty"
            raise UserError(f"no sample can be used; the first: {first}")
        return functools.reduce(operator.add, self.sums).statistics()

    def index(self) -> tuple[np.ndarray, list[Shape], tuple[str, ...]]:
        """Return index, table of shapes, names of classes.

        A sample set aside has no bytes and fits no bucket.
        """
        shapes = sorted({place[2] for place in self.places if place})
        labelled, classes = with_labels(self.items)
        index = np.zeros(len(self.items), INDEX_DTYPE)
        index["id"] = np.arange(len(index))
        index["label"] = [item.label for item in labelled]
        index["shard"] = np.repeat(np.arange(len(self.counts)), self.counts)
        bucket = {shape: number for number, shape in enumerate(shapes)}
        index["bucket"] = [bucket[place[2]] if place else NO_BUCKET for place in self.places]
        index["offset"] = [place[1] if place else 0 for place in self.places]
        index["size"] = [_bytes(place[2]) if place else 0 for place in self.places]
        return index, shapes, classes


def read_foreign(paths: Sequence[Path], advance: Callable[[], None]) -> ForeignLatents:
    """Read every value of the tars; `advance` is called per tar. WorkError if a tar is damaged.

    A sample is one array, float16 in C order: (C, H, W), (C, T, H, W) or (M, C, T, H, W) with M = 1 (mean) or
    2 (mean and log-variance), beside `cls` or `json`. Set aside is what is something else, not finite, or of
    another M or C than the first.
    """
    found = ForeignLatents()
    for number, path in enumerate(paths):
        before = len(found.items)
        with open(path, "rb", opener=regular) as file:
            for shape, values in _by_shape(_usable(file, path, number, found)):
                stacked = np.frombuffer(b"".join(values), LATENT_DTYPE).reshape(-1, *shape)
                found.sums.append(LatentSums.of(stacked))
        found.counts.append(len(found.items) - before)
        if not found.counts[-1]:
            raise UserError(f"{path}: holds no sample")
        advance()
    return found


def _usable(file: IO[bytes], path: Path, number: int, found: ForeignLatents) -> Iterator[tuple[Shape, bytes]]:
    """Note every sample of a tar in `found`; yield shape and values of those that can be used."""
    kind = next((place[2][:2] for place in found.places if place), None)
    for sample in samples(path):
        name = f"{path.name}: {sample.key}"
        annotation = read_tar_annotation(file.fileno(), path, sample)
        try:
            if annotation.refused:
                raise ValueError(annotation.refused[1])
            shape, offset, values = _values(file, path, _array(sample), kind)
        except ValueError as error:
            found.items.append(Item(name, path, 0, 0, refused=("latents", str(error))))
            found.places.append(None)
        else:
            kind = shape[:2]
            found.items.append(Item(name, path, 0, 0, annotation.label, annotation.class_name))
            found.places.append((number, offset, shape))
            yield shape, values


def _values(file: IO[bytes], path: Path, member: Member, kind: Shape | None) -> tuple[Shape, int, bytes]:
    """Return shape (M, C, T, H, W), offset and bytes of a sample's values.

    ValueError says why it cannot be used.
    """
    try:
        found, offset = array_place(path, member.name, member, file, LATENT_DTYPE)
    except WorkError as error:
        raise ValueError(str(error).removeprefix(f"{path}: ")) from None
    shape = as_latents(found)
    if kind is not None and shape[:2] != kind:
        ours, first = (f"M={m} and C={c}" for m, c in (shape[:2], kind))
        raise ValueError(f"{member.name} has {ours}, the first sample {first}")
    values = read_range(file.fileno(), _bytes(shape), offset)
    if not is_finite(np.frombuffer(values, LATENT_DTYPE)):
        raise ValueError(f"{member.name} holds values that are not finite")
    return shape, offset, values


def as_latents(shape: Shape) -> Shape:
    """Return the shape of an array as (M, C, T, H, W); ValueError if it cannot be that of latents."""
    full = {3: (1, *shape[:1], 1, *shape[1:]), 4: (1, *shape), 5: shape}.get(len(shape), ())
    if not full or full[0] not in (1, 2) or min(full) < 1 or _bytes(full) >= 1 << 32:
        wanted = "(C, H, W), (C, T, H, W), or (M, C, T, H, W) with M of 1 or 2"
        raise ValueError(f"an array of shape {shape}; latents are {wanted}")
    return full


def _by_shape(usable: Iterable[tuple[Shape, bytes]]) -> Iterator[tuple[Shape, list[bytes]]]:
    """Yield samples grouped by shape, some at a time."""
    waiting: dict[Shape, list[bytes]] = defaultdict(list)
    for shape, values in usable:
        waiting[shape].append(values)
        if len(waiting[shape]) == _SUMMED:
            yield shape, waiting.pop(shape)
    yield from waiting.items()


def _array(sample: TarSample) -> Member:
    """Return the sample's array; ValueError unless there is exactly one, and the sample may be used."""
    found = arrays(sample)
    if sample.refused or len(found) != 1:
        raise ValueError(sample.refused or f"has {len(found)} .npy members, expected 1")
    return found[0]


def _bytes(shape: Shape) -> int:
    return int(np.prod(shape)) * LATENT_DTYPE.itemsize


def origin(stated: Mapping[str, Any] | None, before: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the origin of foreign latents for the manifest: what is stated now, or else what was before."""
    return {**FOREIGN, **(before or {}), **(stated or {})}
