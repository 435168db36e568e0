"""The layouts, in the order in which they are asked: what describes the source first, single files last."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from data.raw.item import Item
from data.raw.layouts import companions, conditions, energon, hub_cache, media_files, splits, tar_samples
from data.raw.layouts.named import named_files
from data.raw.layouts.tree import Tree

# Each takes the files that are its own from the tree, and gives their samples in a fixed order.
LAYOUTS: tuple[Callable[[Tree], Iterable[Item]], ...] = (
    hub_cache.read,
    energon.read,
    splits.read,
    companions.read,
    conditions.note,
    named_files.read,
    conditions.leave,
    tar_samples.read,
    media_files.read,
)
