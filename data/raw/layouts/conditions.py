"""Pictures that trainers read as conditions of others: masks, depth, first frames, in folders called so."""

from __future__ import annotations

import functools
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import PurePosixPath

from data.raw.item import Item, printable
from data.raw.layouts.beside import described, files_beside
from data.raw.layouts.tree import Tree

WORDS = {
    *("mask", "masks", "trimap", "trimaps", "segmentation", "segmentations", "control", "controls"),
    *("condition", "conditions", "conditioning", "cond", "reference", "references", "depth", "canny", "hed"),
    *("edge", "edges", "pose", "poses", "openpose", "lineart", "scribble", "scribbles"),
}
FIRST_FRAMES = re.compile(r"(first|last)[-_. ]?frames?", re.I)  # CogVideo's trainer makes `first_frames`
_NUMBER = re.compile(r"_\d+\Z")  # of musubi-tuner's second condition of a picture, `image1_0`


def note(tree: Tree) -> Iterable[Item]:
    """Note which files are conditions: a whole folder of them, each called as a picture elsewhere is."""
    folder_of = functools.cache(_folder)
    folders: dict[str, list[str]] = defaultdict(list)
    for name in tree.media():
        folders[folder_of(name.rpartition("/")[0])].append(name)
    samples = folders.pop("", [])
    if tree.given or not folders:
        return ()
    others = {PurePosixPath(name).stem for name in samples}
    for folder, names in folders.items():
        if all(_owners(name, folder) & others for name in names):
            tree.conditions.update(dict.fromkeys(names, folder))
    return ()


def leave(tree: Tree) -> Iterable[Item]:
    """Leave noted files out, counted, where what they are called after has a caption or a row, and they none.

    Elsewhere they may as well be a class of pictures that is called so: they are packed, with a warning.
    """
    left = [name for name in tree.conditions if name in tree.left]
    if not left:
        return ()
    media = tree.media()
    captioned = described(media, files_beside(tree, media))
    is_known = bool(tree.tables) or any(name not in tree.conditions for name in captioned)
    for name in left:
        if is_known and name not in captioned:
            tree.take([name])
            tree.findings.ignored[f"condition of a picture, in {printable(tree.conditions[name])}/"] += 1
    if not is_known:
        shown = ", ".join(sorted({printable(tree.conditions[name]) for name in left}))
        tree.findings.said.append(
            f"warning: folders that are called as conditions of pictures are packed as samples: {shown}; "
            "give the folder of the pictures as the source to pack it alone"
        )
    return ()


def _folder(path: str) -> str:
    """Return the first folder on a path of folders that is called as those of conditions are, "" for none."""
    parts = PurePosixPath(path).parts
    for count, part in enumerate(parts, 1):
        if FIRST_FRAMES.fullmatch(part) or WORDS & set(re.split(r"[-_. ]+", part.lower())):
            return "/".join(parts[:count])
    return ""


def _owners(name: str, folder: str) -> set[str]:
    """Return the stems that the picture of a condition may have: its own, or that of its folder of frames."""
    inner = PurePosixPath(name).relative_to(folder)
    stem = inner.stem
    return {stem, _NUMBER.sub("", stem), *inner.parts[:1]}
