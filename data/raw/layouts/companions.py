"""Files beside a tar that repeat or describe it: those of img2dataset, video2dataset and webdataset."""

from __future__ import annotations

from collections.abc import Iterable

from data.raw.item import Item
from data.raw.layouts.tree import Tree

# behind the stem of the tar
ENDINGS = (".parquet", "_stats.json", ".json", ".idx", ".index", ".csv", ".tar.sha256", ".tar.md5")
NAME = "companion of a tar"


def read(tree: Tree) -> Iterable[Item]:
    """Count and take the companions of tars; makes no samples."""
    for tar in [name for name in tree.left if name.lower().endswith(".tar")]:
        for ending in ENDINGS:
            if (companion := tar[:-4] + ending) in tree.left:
                tree.take([companion])
                tree.findings.ignored[NAME] += 1
    return ()
