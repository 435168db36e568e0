"""The cache of `huggingface_hub`: `blobs/` with the contents, `snapshots/REVISION/` with links to them."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from core.errors import UserError
from core.files import published
from data.raw.item import Item
from data.raw.layouts.tree import Tree

_REPOSITORY = re.compile(r"(models|datasets|spaces)--.+")
_PARTS = ("blobs", "snapshots", "refs")
MOST_SHOWN = 6  # repositories, or revisions of one


def read(tree: Tree) -> Iterable[Item]:
    """Raise a UserError that names the snapshot to give instead; makes no samples."""
    if tree.given:
        return ()
    if sum((tree.source / part).is_dir() for part in _PARTS) > 1:  # where links are not to be had no blobs
        raise _refused(tree.source, "this Hugging Face hub cache", [tree.source])
    if found := _repositories(tree):
        raise _refused(tree.source, "the Hugging Face hub cache that it holds", found)
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


def _repositories(tree: Tree) -> list[Path]:
    """Return the repositories `datasets--OWNER--NAME` of caches that lie anywhere in the source."""
    found: dict[Path, None] = {}
    for name in tree.left:
        folders = PurePosixPath(name).parts[:-1]
        for depth, (folder, below) in enumerate(itertools.pairwise(folders), 1):
            if below in _PARTS and _REPOSITORY.fullmatch(folder):
                found[tree.source.joinpath(*folders[:depth])] = None
    return sorted(found)


def _refused(source: Path, what: str, repositories: list[Path]) -> UserError:
    """Return the error that names one snapshot, and the others that there are."""
    snapshots = [
        path for one in repositories for path in sorted(published(one / "snapshots"), key=lambda p: p.name)
    ]
    one = snapshots[0] if len(snapshots) == 1 else repositories[0] / "snapshots" / "REVISION"
    shown = [str(path.relative_to(source)) for path in snapshots[:MOST_SHOWN]]
    more = f" and {len(snapshots) - MOST_SHOWN} more" if len(snapshots) > MOST_SHOWN else ""
    found = f" (there are: {', '.join(shown)}{more})" if len(snapshots) > 1 else ""
    return UserError("source", source, f"one snapshot of {what}: {one} links=follow{found}")
