"""Hold samples of a source out: those that are packed for training, and those that no training sees."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Literal

import numpy as np

from core.errors import UserError
from core.progress import counted
from data.raw.decoding import in_part
from data.raw.ingest import Listing
from data.raw.item_store import Selection

Part = Literal["all", "train", "held_out"]


def part_of(listing: Listing, part: Part, held_out: float) -> Listing:
    """Return the listing with the samples of `part` alone; UserError if there are none.

    Which sample is held out follows from its name in the source alone, so that it stays so in a folder that
    grows. Classes keep their numbers. held_out: the share that part=train leaves out, in [0, 1].
    """
    if part == "all":
        return listing
    places = np.flatnonzero(in_part(_numbers(listing), part, held_out))
    if not len(places):
        raise UserError("part", part, f"all: with held_out={held_out:g} it has none of the samples")
    items = Selection(listing.items, places)
    kept = [item for item in items if item.refused is None]
    line = f"part={part}: {len(items)} of {counted(len(listing.items), 'sample')} (held_out={held_out:g})"
    return replace(
        listing,
        items=items,
        texts=sum(bool(item.text) for item in kept),
        labels=sum(item.label >= 0 for item in kept),
        unusable=len(items) - len(kept),
        said=(*listing.said, line),
    )


def count_held_out(listing: Listing, held_out: float) -> int:
    """Return how many samples `part_of` would hold out."""
    return int(in_part(_numbers(listing), "held_out", held_out).sum())


def _numbers(listing: Listing) -> np.ndarray:
    """Return 64 bits of the hash of each sample's name: (samples,) uint64."""
    names = (item.name.encode("utf-8", "surrogateescape") for item in listing.items)
    hashes = b"".join(hashlib.sha256(name).digest()[:8] for name in names)
    return np.frombuffer(hashes, "<u8")
