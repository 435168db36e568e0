"""The cache of `huggingface_hub`: `blobs/` with the contents, `snapshots/REVISION/` with links to them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from core.errors import UserError
from core.files import published
from data.raw.item import Item
from data.raw.layouts.tree import Tree


def read(tree: Tree) -> Iterable[Item]:
    """Raise a UserError that names the snapshot to give instead; makes no samples."""
    if tree.given:
        return ()
    if all((tree.source / part).is_dir() for part in ("blobs", "snapshots")):
        revisions = sorted(path.name for path in published(tree.source / "snapshots"))
        one = f"{tree.source / 'snapshots'}/{revisions[0] if len(revisions) == 1 else 'REVISION'}"
        found = f" (there are: {', '.join(revisions)})" if len(revisions) > 1 else ""
        raise UserError(
            "source", tree.source, f"one snapshot of this Hugging Face hub cache: {one} links=follow{found}"
        )
    if is_snapshot(tree.source) and tree.rules.links == "inside":
        raise UserError(
            "links",
            tree.rules.links,
            f"follow, since {tree.source} is a snapshot of a Hugging Face hub cache, "
            "where every file is a link into blobs/",
        )
    return ()


def is_snapshot(source: Path) -> bool:
    """Return whether a folder is a snapshot in a hub cache, or lies in one."""
    real = source.resolve()
    return any(
        folder.parent.name == "snapshots" and (folder.parent.parent / "blobs").is_dir()
        for folder in (real, *real.parents)
    )
