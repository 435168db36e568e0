"""Files beside tars that repeat or describe them, as img2dataset, video2dataset and `shard` write them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePosixPath

from core.run.folder import CONFIG
from data.dataset.schema import INDEX, LEFT_OUT, MANIFEST, MEDIA, QUARANTINE
from data.raw.item import Item
from data.raw.layouts.tree import Tree

# behind the stem of the tar
ENDINGS = (".parquet", "_stats.json", ".json", ".idx", ".index", ".csv", ".tar.sha256", ".tar.md5")
NAME = "beside tars or numbered folders, repeating them"
MOST_SHOWN = 6  # folders in a line
MASK = re.compile(r"(.+)-(?:mask|cond)label\.[a-z]+", re.I | re.S)  # OneTrainer's, beside their picture
NUMBERED = re.compile(r"\d{5}/img\d{8}\.\w+")  # files as `dataset_tool` of StyleGAN and EDM calls them
THOUSANDS = re.compile(r"(?:[^/]*/)?(\d{5})/(\d{5})\.\w+")
OWN = (MANIFEST, INDEX, MEDIA, LEFT_OUT, QUARANTINE, CONFIG)  # files of a raw dataset that is packed again


def read(tree: Tree) -> Iterable[Item]:
    """Count and take the companions of tars; makes no samples."""
    for tar in [name for name in tree.left if name.lower().endswith((".tar", ".tfrecord"))]:
        for ending in ENDINGS:
            if (companion := tar[: tar.rindex(".")] + ending) in tree.left:
                tree.take([companion])
                tree.findings.ignored[NAME] += 1
    _leave_masks(tree)
    folders = _folders_of_img2dataset(tree)
    if folders:
        tree.no_classes |= folders.keys()
        tree.findings.said.append(
            f"folders as img2dataset numbers them are no classes: {', '.join(sorted(folders)[:MOST_SHOWN])}"
            + (" ..." if len(folders) > MOST_SHOWN else "")
        )
        for files in folders.values():
            tree.take(files)
            tree.findings.ignored[NAME] += len(files)
    media = tree.media()
    for tool, is_its in (("dataset_tool of StyleGAN and EDM", NUMBERED.fullmatch), ("FFHQ", _is_of_ffhq)):
        if media and all(map(is_its, media)):
            tree.no_classes |= {part for name in media for part in PurePosixPath(name).parts[:-1]}
            tree.findings.said.append(f"folders as {tool} numbers them are no classes")
    if _is_own(tree):
        own = [name for name in OWN if name in tree.left]
        tree.take(own)
        tree.findings.ignored[NAME] += len(own)
    return ()


def _is_of_ffhq(name: str) -> bool:
    """Return whether a file is called as FFHQ's are: `01000/01999.png`, a thousand in a folder."""
    match = THOUSANDS.fullmatch(name)
    return match is not None and int(match[1]) == int(match[2]) // 1000 * 1000


def _leave_masks(tree: Tree) -> None:
    """Leave out OneTrainer's masks and conditions of pictures, `0-masklabel.png` beside `0.jpg`."""
    masked = {name: match[1] for name in tree.left if (match := MASK.fullmatch(name))}
    stems = {str(PurePosixPath(name).with_suffix("")) for name in tree.left} if masked else set()
    for name, stem in masked.items():
        if stem in stems:
            tree.take([name])
            tree.findings.ignored["mask or condition of OneTrainer"] += 1


def _folders_of_img2dataset(tree: Tree) -> dict[str, list[str]]:
    """Return the numbered folders that `output_format=files` fills, each with the files that describe it.

    Those of shards whose download was ended early have no statistics yet.
    """
    first = dict.fromkeys(PurePosixPath(name).parts[0] for name in tree.left if "/" in name)
    described = {
        folder: [name for ending in ENDINGS if (name := folder + ending) in tree.left]
        for folder in first
        if folder.isdecimal()
    }
    is_its = any(folder + "_stats.json" in files for folder, files in described.items())
    return described if is_its else {}


def _is_own(tree: Tree) -> bool:
    """Return whether the source is a dataset that `shard` wrote."""
    if tree.given or MANIFEST not in tree.left or not all(name in tree.left for name in (INDEX, MEDIA)):
        return False
    return any(name.endswith(".tar") for name in tree.left)
