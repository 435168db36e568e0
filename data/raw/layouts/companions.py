"""Files beside tars that repeat or describe them: from img2dataset, video2dataset, webdataset and `shard`."""

from __future__ import annotations

from collections.abc import Iterable

from core.run.folder import CONFIG
from data.dataset.schema import INDEX, LEFT_OUT, MANIFEST, MEDIA, QUARANTINE
from data.raw.item import Item
from data.raw.layouts.tree import Tree

# behind the stem of the tar
ENDINGS = (".parquet", "_stats.json", ".json", ".idx", ".index", ".csv", ".tar.sha256", ".tar.md5")
NAME = "beside tars, repeating them"
OWN = (MANIFEST, INDEX, MEDIA, LEFT_OUT, QUARANTINE, CONFIG)  # files of a raw dataset that is packed again


def read(tree: Tree) -> Iterable[Item]:
    """Count and take the companions of tars; makes no samples."""
    for tar in [name for name in tree.left if name.lower().endswith(".tar")]:
        for ending in ENDINGS:
            if (companion := tar[:-4] + ending) in tree.left:
                tree.take([companion])
                tree.findings.ignored[NAME] += 1
    if _is_own(tree):
        own = [name for name in OWN if name in tree.left]
        tree.take(own)
        tree.findings.ignored[NAME] += len(own)
    return ()


def _is_own(tree: Tree) -> bool:
    """Return whether the source is a dataset that `shard` wrote."""
    if tree.given or MANIFEST not in tree.left or not all(name in tree.left for name in (INDEX, MEDIA)):
        return False
    return any(name.endswith(".tar") for name in tree.left)
