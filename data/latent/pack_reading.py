"""Read packed latent parts: whole, or only where everything lies in them (`data.latent.packs`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import IO, Literal, NotRequired, TypedDict

import numpy as np

from core.errors import WorkError
from core.files import regular
from core.progress import counted
from core.reading import json_files
from core.reading.json_scalars import U32
from data.dataset.tars import Member, samples
from data.latent.members import array_place, is_finite, read_array
from data.latent.packs import (
    CAPTION_DTYPE,
    CAPTIONS_MEMBER,
    FEATURES_MEMBER,
    ID_DTYPE,
    LABEL_DTYPE,
    LATENT_DTYPE,
    NO_CAPTIONS,
    STILLS_MEMBER,
    TEXT_RANGE_DTYPE,
    Absent,
    Pack,
    Place,
    Shape,
    Sides,
    Text,
    TextPlace,
    still_shape,
)

_KINDS = ("latent.npy", "id.npy", "label.npy", "json")
_TEXT = ("text.npy", "text_rows.npy")


def read_part(path: Path) -> Iterator[Pack]:
    """Return the packs of a part, whole, by `tarfile` and NumPy: the plain twin of
    `data.latent.reading.LatentReader`.

    WorkError names the member that is damaged, of another dtype or shape, or not finite.
    """
    for key, members, file in _packs(path):
        place = _place(path, key, members, file)
        arrays: dict[str, np.ndarray] = {}
        for kind in ("latent.npy", "flip.npy", "text.npy", FEATURES_MEMBER, STILLS_MEMBER):
            if kind in members:
                name = f"{key}.{kind}"
                dtype = LATENT_DTYPE if kind in ("text.npy", FEATURES_MEMBER) else place.dtype
                arrays[kind] = read_array(path, name, members[kind], file, dtype)
                if not is_finite(arrays[kind]):
                    raise WorkError(f"{path}: {name} holds values that are not finite")
        text = None
        if (found := place.text) is not None:
            text = Text(arrays["text.npy"], found.ranges, found.captions, found.names)
        views = arrays.get("flip.npy"), text, arrays.get(FEATURES_MEMBER), arrays.get(STILLS_MEMBER)
        yield Pack(arrays["latent.npy"], place.ids, place.labels, place.absent, *views)


def scan_part(path: Path) -> list[Place]:
    """Return where the packs of a part lie; of the latents only the headers are read."""
    places = [_place(path, key, members, file) for key, members, file in _packs(path)]
    texts = [place.text for place in places if place.text is not None]
    ends = np.cumsum([text.rows for text in texts])
    for text in texts:
        used = np.stack([text.captions["first"], text.captions["rows"]], 1)
        used = np.concatenate([text.ranges, used]).astype(np.int64)
        first, count = used[used[:, 1] > 0].T
        pack = np.searchsorted(ends, first, side="right")
        if (pack == len(ends)).any() or (first + count > ends[pack]).any():
            raise WorkError(f"{path}: the rows of a sample's text do not lie in one of its packs")
    return places


def _packs(path: Path) -> Iterator[tuple[str, dict[str, Member], IO[bytes]]]:
    """Yield (key, member of each kind, the open file) of every pack; WorkError for a damaged archive."""
    with open(path, "rb", opener=regular) as file:
        for sample in samples(path):
            more = set(sample.members) - set(_KINDS)
            more -= {"flip.npy", FEATURES_MEMBER, STILLS_MEMBER}
            known = more in (set(), set(_TEXT), {*_TEXT, CAPTIONS_MEMBER})
            if sample.refused or not known or not set(_KINDS) <= set(sample.members):
                reason = sample.refused or f"its members are {', '.join(sorted(sample.members))}"
                raise WorkError(f"{path}: {sample.key} is no pack of latents: {reason}")
            yield sample.key, sample.members, file


def _place(path: Path, key: str, members: dict[str, Member], file: IO[bytes]) -> Place:
    about = _about(path, key, members["json"], file)
    dtype = np.dtype(about.get("dtype", LATENT_DTYPE.name)).newbyteorder("<")
    ids = read_array(path, f"{key}.id.npy", members["id.npy"], file, ID_DTYPE)
    labels = read_array(path, f"{key}.label.npy", members["label.npy"], file, LABEL_DTYPE)
    shape, offset = array_place(path, f"{key}.latent.npy", members["latent.npy"], file, dtype)
    if shape[1:] != about["shape"] or not len(ids) == len(labels) == shape[0] or len(shape) != 6:
        raise WorkError(f"{path}: the members of pack {key} do not agree in shape")
    flip_offset = 0
    if (flip := members.get("flip.npy")) is not None:
        flip_shape, flip_offset = array_place(path, f"{key}.flip.npy", flip, file, dtype)
        if flip_shape != shape:
            raise WorkError(f"{path}: {key}.flip.npy is {flip_shape}, but {key}.latent.npy is {shape}")
    text = None
    if "text.npy" in members:
        text = _text_place(path, key, members, file, len(ids), about.get("caption_names", ()))
    feature_shape: Shape = ()
    feature_offset = 0
    if (member := members.get(FEATURES_MEMBER)) is not None:
        whole, feature_offset = array_place(path, f"{key}.{FEATURES_MEMBER}", member, file, LATENT_DTYPE)
        feature_shape, views = whole[1:], 1 + ("flip.npy" in members)
        if whole[:2] != (len(ids), views) or len(whole) != 6:
            expected = f"{len(ids)} samples of {counted(views, 'view')}"
            raise WorkError(f"{path}: {key}.{FEATURES_MEMBER} is {whole}, and the pack has {expected}")
    found = about["absent"], flip_offset, text, dtype, feature_offset, feature_shape
    place = Place(shape[1:], ids, labels, offset, *found)
    if (member := members.get(STILLS_MEMBER)) is not None:
        whole, still_offset = array_place(path, f"{key}.{STILLS_MEMBER}", member, file, dtype)
        if whole != (wanted := (len(ids), place.views, *still_shape(place.shape))):
            raise WorkError(f"{path}: {key}.{STILLS_MEMBER} is {whole}, and is to be {wanted}")
        place = replace(place, still_offset=still_offset)
    return place


def _text_place(
    path: Path, key: str, members: dict[str, Member], file: IO[bytes], count: int, names: tuple[str, ...]
) -> TextPlace:
    ranges = read_array(path, f"{key}.text_rows.npy", members["text_rows.npy"], file, TEXT_RANGE_DTYPE)
    shape, offset = array_place(path, f"{key}.text.npy", members["text.npy"], file, LATENT_DTYPE)
    if ranges.shape != (count, 2) or len(shape) != 2:
        raise WorkError(f"{path}: the text of pack {key} does not fit its samples")
    captions = NO_CAPTIONS
    if CAPTIONS_MEMBER in members:
        captions = read_array(path, f"{key}.{CAPTIONS_MEMBER}", members[CAPTIONS_MEMBER], file, CAPTION_DTYPE)
        if (captions["sample"] >= count).any() or (captions["name"] >= len(names)).any():
            raise WorkError(f"{path}: the captions of pack {key} do not fit its samples")
    return TextPlace(offset, shape[0], shape[1], ranges, captions, names)


class _About(TypedDict):
    """The `.json` of a pack."""

    shape: Sides
    samples: U32
    absent: tuple[Absent, ...]
    dtype: NotRequired[Literal["float16", "float32"]]
    caption_names: NotRequired[tuple[str, ...]]


def _about(path: Path, key: str, member: Member, file: IO[bytes]) -> _About:
    file.seek(member.content)
    return json_files.parse(file.read(member.size), _About, f"{path}: {key}.json")
