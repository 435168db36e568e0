"""Splits: a first level of nothing but `train`, `test` and the like, as folders or names of tars and tables.

They are no classes, and test data must not train unseen: where there are several, `split=` says which.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from core.errors import UserError
from core.progress import counted
from data.media.formats import MEDIA_SUFFIXES
from data.raw.annotations.split_names import SPLITS, is_split, split_in
from data.raw.item import Item, printable
from data.raw.layouts.tree import KINDS_OF_MEDIA, Tree
from data.raw.tables.kinds import GIVEN

OF_NO_CLASS = {"data", "default", *KINDS_OF_MEDIA}  # folders around splits of which nothing need be said


def read(tree: Tree) -> Iterable[Item]:
    """Leave the files of other splits out of the tree, counted; makes no samples."""
    if tree.given or tree.has_splits:
        return ()
    content = [name for name in tree.left if name.lower().endswith((*MEDIA_SUFFIXES, ".tar", ".parquet"))]
    depth = _depth(content)
    splits = {name: _split_of(name, depth) for name in tree.left}
    if not content or not all(splits[name] for name in content):
        _say_inner(tree, content)
        return ()
    wanted = chosen(tree, Counter(splits[name] for name in content), "file")
    tree.findings.said.append(f"splits packed: {', '.join(wanted)}")
    around = {"/".join(PurePosixPath(name).parts[:depth]) for name in content} - {"", *OF_NO_CLASS}
    if len(around) == 1:
        tree.findings.said.append(f"the folder {printable(*around)}/ around all splits is no class")
    tree.skip = depth + any(len(PurePosixPath(name).parts) > depth + 1 for name in content)
    for name, split in splits.items():
        if split and split not in wanted:
            tree.take([name])
            tree.left_out.add(name)
            tree.findings.ignored[f"of split {split}"] += 1
    return ()


def _say_inner(tree: Tree, content: Iterable[str]) -> None:
    """Say that folders within others are called as splits are: test data may be among them."""
    inner = {part for name in content for part in PurePosixPath(name).parts[1:-1] if is_split(part)}
    if len(inner) > 1:
        tree.findings.said.append(
            f"warning: folders within others are called as splits are, and all of them are packed: "
            f"{', '.join(sorted(map(printable, inner)))}; splits are a first level of such folders"
        )


def chosen(tree: Tree, counts: Counter[str], unit: str) -> Sequence[str]:
    """Choose the splits to pack; UserError unless it is clear which.

    counts: what each has, in `unit`s.
    """
    tree.has_splits = True
    rules = tree.rules
    shown = ", ".join(f"{name} ({counted(count, unit)})" for name, count in sorted(counts.items()))
    if unknown := [name for name in rules.splits if name not in counts]:
        raise UserError("split", "+".join(unknown), f"splits of the source: {shown}")
    if len(counts) > 1 and not rules.splits:
        raise UserError("split", "''", f"NAME or NAME+NAME of the splits of the source: {shown}")
    return rules.splits or tuple(counts)


def require_splits(tree: Tree) -> None:
    """Raise UserError if splits are asked for and the source has none: all of it would be packed."""
    if tree.rules.splits and not tree.has_splits:
        raise UserError(
            "split",
            "+".join(tree.rules.splits),
            f"'': the source has no splits, which are a first level of nothing but {', '.join(SPLITS)}, "
            "tars or tables called so, or a column `split`",
        )


def _depth(content: Iterable[str]) -> int:
    """Return how many folders lie around those of splits: one around all, or such as `images` and `videos`.

    content: names of the files that can hold samples.
    """
    folders = [PurePosixPath(name).parts[:-1] for name in content]
    depth = 0
    while folders and all(len(parts) > depth for parts in folders):
        level = {parts[depth] for parts in folders}
        around = len(level) == 1 or all(name.lower() in KINDS_OF_MEDIA for name in level)
        if not around or all(map(is_split, level)):
            break
        depth += 1
    return depth


def _split_of(name: str, depth: int) -> str:
    """Return the split named by the first level of a name, "" if it names none."""
    path = PurePosixPath(name)
    if len(path.parts) > depth + 1:
        folder = path.parts[depth]
        return folder.removeprefix("split=") if is_split(folder) else ""
    return split_in(path.stem) if path.suffix.lower() in (".tar", *GIVEN) else ""
