"""Splits: a first level of nothing but `train`, `test` and the like, as folders or names of tars and tables.

They are no classes, and test data must not train unseen: where there are several, `split=` says which.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from core.errors import UserError
from data.media.formats import MEDIA_SUFFIXES
from data.raw.item import Item
from data.raw.layouts.tree import Tree
from data.raw.rules import SourceRules
from data.raw.tables.kinds import GIVEN

SPLITS = ("train", "training", "val", "validation", "valid", "dev", "test", "testing")
WRAPPER = "data"  # the one folder in which Hugging Face repositories keep their files
_PART = re.compile(rf"({'|'.join(SPLITS)})([-_.]?\d+(-of-\d+)?)?([-_.][0-9a-f]{{16}})?", re.I)


def read(tree: Tree) -> Iterable[Item]:
    """Leave the files of other splits out of the tree, counted; makes no samples."""
    if tree.given:
        return ()
    depth = 1 if {PurePosixPath(name).parts[0] for name in tree.left} == {WRAPPER} else 0
    splits = {name: _split_of(name, depth) for name in tree.left}
    content = [name for name in tree.left if _is_content(name)]
    if not content or not all(splits[name] for name in content):
        return ()
    counts = Counter(splits[name] for name in content)
    wanted = chosen(counts, tree.rules, "files")
    tree.skip = depth + any(len(PurePosixPath(name).parts) > depth + 1 for name in content)
    for name, split in splits.items():
        if split and split not in wanted:
            tree.take([name])
            tree.left_out.add(name)
            tree.findings.ignored[f"of split {split}"] += 1
    tree.findings.said.append(f"splits packed: {', '.join(wanted)}")
    return ()


def chosen(counts: Counter[str], rules: SourceRules, unit: str) -> Sequence[str]:
    """Choose the splits to pack; UserError unless it is clear which."""
    shown = ", ".join(f"{name} ({count} {unit})" for name, count in sorted(counts.items()))
    if unknown := [name for name in rules.splits if name not in counts]:
        raise UserError("split", "+".join(unknown), f"splits of the source: {shown}")
    if len(counts) > 1 and not rules.splits:
        raise UserError("split", "''", f"NAME or NAME+NAME of the splits of the source: {shown}")
    return rules.splits or tuple(counts)


def is_split(name: str) -> bool:
    """Return whether a word names a split."""
    return name.lower() in SPLITS


def _split_of(name: str, depth: int) -> str:
    """Return the split named by the first level of a name, "" if it names none."""
    parts = PurePosixPath(name).parts[depth:]
    if len(parts) > 1:
        return parts[0] if is_split(parts[0]) else ""
    suffix = PurePosixPath(name).suffix.lower()
    found = _PART.fullmatch(PurePosixPath(name).stem) if suffix in (".tar", *GIVEN) else None
    return found.group(1) if found else ""


def _is_content(name: str) -> bool:
    """Return whether a file can hold samples; other files at the first level say nothing of splits."""
    path = PurePosixPath(name)
    return path.suffix.lower() in (*MEDIA_SUFFIXES, ".tar", ".parquet") or len(path.parts) > 1
