"""kohya's folders `N_name`: that trainer repeats each picture in them N times; `name` is a trigger word."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath

from core.progress import counted
from data.media.formats import MEDIA_SUFFIXES
from data.raw.layouts.tree import Tree

_FOLDER = re.compile(r"([1-9]\d*)_(.+)")


def repeats(tree: Tree, names: Iterable[str]) -> dict[str, tuple[int, str]]:
    """Return {first-level folder: (N, name)}; {} unless all media lie in such folders."""
    folders = Counter(
        PurePosixPath(n).parts[0] if "/" in n else "" for n in names if n.lower().endswith(MEDIA_SUFFIXES)
    )
    matches = {folder: _FOLDER.fullmatch(folder) for folder in folders}
    if not folders or not all(matches.values()):
        return {}
    found = {folder: (int(m[1]), m[2]) for folder, m in matches.items() if m}
    shown = ", ".join(f"{counted(count, 'file')} of {folder}" for folder, count in sorted(folders.items()))
    how = "names are classes" if tree.rules.classes else "names are no classes (classes=true takes them)"
    tree.findings.said.append(
        f"folders N_name as kohya has them, N is recorded and not applied, {how}: {shown}"
    )
    return found
