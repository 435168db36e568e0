"""Rows of the index of a latent part, and of the files row by row beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np

from core.errors import WorkError
from data.dataset.schema import FLIP_DTYPE, INDEX_DTYPE, TEXT_DTYPE
from data.latent.packs import LATENT_DTYPE, Place, Shape
from data.order.buckets import NO_BUCKET

# Where something of each sample begins in its part, <u8 and 0 for none, and the bytes of one view of it,
# (samples,) each.
Ranges = tuple[np.ndarray, np.ndarray]


def index_rows(
    path: Path, places: Iterable[Place], *, shard: int, first: int, buckets: list[Shape]
) -> np.ndarray:
    """Build the index rows of one part, (samples,) INDEX_DTYPE, in order of id, without a gap from `first`
    on.

    buckets: the dataset's table of shapes.  Absent samples get offset and size 0. WorkError if an id is
    missing, twice there, or of another part.
    """
    rows = [np.zeros(0, INDEX_DTYPE)]
    for place in places:
        size = int(np.prod(place.shape)) * place.dtype.itemsize
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
    """Return the offsets in the tar of the mirrored view of every sample of a part, (samples,) <u8.

    0 for none.

    rows: the part's index rows, as `index_rows` makes them; a mirrored sample has as many bytes as the other.
    """
    offsets = np.zeros(len(rows), FLIP_DTYPE)
    for place in places:
        if place.flip_offset:
            here = np.searchsorted(rows["id"], place.ids)
            offsets[here] = rows["offset"][here] + np.uint64(place.flip_offset - place.offset)
    return offsets


def feature_ranges(places: Iterable[Place], rows: np.ndarray) -> Ranges:
    """Return where the features of every sample of a part lie in the tar.  Rows as `flip_rows`."""
    return _ranges(places, rows, lambda place: (place.feature_offset, place.feature_bytes))


def still_ranges(places: Iterable[Place], rows: np.ndarray) -> Ranges:
    """Return where the stills of every sample of a part lie in the tar.  Rows as `flip_rows`."""
    return _ranges(places, rows, lambda place: (place.still_offset, place.still_bytes))


def _ranges(places: Iterable[Place], rows: np.ndarray, where: Callable[[Place], tuple[int, int]]) -> Ranges:
    """Return where something beside latents lies, whose views follow one another.

    where: of a pack, the first sample's offset, 0 where it has none, and the bytes of one view.
    """
    offsets, sizes = np.zeros(len(rows), FLIP_DTYPE), np.zeros(len(rows), np.int64)
    for place in places:
        first, size = where(place)
        if first:
            here = np.searchsorted(rows["id"], place.ids)
            offsets[here] = first + place.views * size * np.arange(len(here))
            sizes[here] = size
    return offsets, sizes


def text_rows(places: Sequence[Place], rows: np.ndarray) -> np.ndarray:
    """Return where the text of each sample of a part lies in the tar, (samples,) TEXT_DTYPE.

    Rows as `flip_rows`.

    places: all packs of the part. A caption's tokens lie together in one of them.
    """
    found = np.zeros(len(rows), TEXT_DTYPE)
    for place in places:
        if place.text is not None:
            first, count = place.text.ranges.astype(np.int64).T
            here = np.searchsorted(rows["id"], place.ids)
            found["tokens"][here] = count
            found["offset"][here] = token_offsets(places, first, count)
    return found


def token_offsets(places: Sequence[Place], first: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Return where embeddings begin in the tar: `count` (n,) rows from row `first` (n,) on; 0 for no rows.

    places: all packs of the part, over whose text rows are counted.
    """
    texts = [place.text for place in places if place.text is not None]
    starts = np.cumsum([0, *(text.rows for text in texts)])
    pack = np.searchsorted(starts[1:], first.astype(np.int64), side="right")
    pack = pack.clip(max=len(texts) - 1)  # of a sample without text, any
    begins = np.array([text.offset for text in texts])[pack]
    sizes = np.array([text.width * LATENT_DTYPE.itemsize for text in texts])[pack]
    return np.where(count, begins + (first.astype(np.int64) - starts[pack]) * sizes, 0)
