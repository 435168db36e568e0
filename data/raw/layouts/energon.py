"""Splits of Megatron-Energon: `.nv-meta/split.yaml` says which tars of a folder are train, val and test."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.progress import counted
from data.raw.item import Item, printable
from data.raw.layouts.splits import chosen
from data.raw.layouts.tree import Tree
from data.raw.opening import LEAVES, is_within

NAMES = (".nv-meta/split.yaml", ".nv-meta/split.json")
MOST_BRACES = 4  # in a pattern, or matching it may take long
_BRACES = re.compile(r"\{([^{}]*)\}")


def read(tree: Tree) -> Iterable[Item]:
    """Leave the tars of other splits, and excluded ones, out of the tree, counted; makes no samples."""
    tars = [name for name in tree.left if name.lower().endswith(".tar")]
    files = [path for name in NAMES if (path := tree.source / name).is_file()]
    file = next((path for path in files if is_within(str(path), tree.within())), None)
    if tree.given or not tars or not files:
        return ()
    if file is None:
        raise UserError(f"{files[0]}: {LEAVES}; it says which tars are of which split")
    parts, excluded = _content(file)
    listed = {part: _Listed(names) for part, names in parts.items()}
    split_of = {name: part for name in tars for part in listed if name in listed[part]}
    left_out = _Listed(excluded)
    wanted = chosen(tree, Counter(split_of.values()), "tar")
    tree.findings.said.append(f"splits packed: {', '.join(map(printable, wanted))} (of {file})")
    for name in tars:
        part = split_of.get(name, "")
        if part not in wanted or name in left_out:
            tree.take([name])
            tree.left_out.add(name)
            kind = (
                f"of split {printable(part)}" if part and part not in wanted else f"excluded by {file.name}"
            )
            tree.findings.ignored[kind] += 1
    if samples := [name for name in excluded if ".tar/" in name]:
        tree.findings.said.append(
            f"warning: {counted(len(samples), 'sample')} that {file.name} excludes are packed all the same: "
            f"{printable(', '.join(samples[:3]))}"
        )
    return ()


def _content(file: Path) -> tuple[Mapping[str, list[str]], list[str]]:
    """Return {split: tars} without empty ones, and what is excluded; UserError for another form."""
    from core.config.yaml_files import read_recorded  # loads OmegaConf, and few sources have such a file

    content: dict[str, Any] = read_recorded(file)
    parts, excluded = content.get("split_parts"), content.get("exclude") or []
    if not isinstance(parts, dict) or not all(map(_are_names, [*parts.values(), excluded])):
        raise UserError(f"{file}: no `split_parts` with a list of tars for each split, as energon writes it")
    return {str(part): names for part, names in parts.items() if names}, excluded


def _are_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


class _Listed:
    """Names of tars, some of which are patterns with braces, `shard_{000..899}.tar`."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = set(names)
        self._patterns = [name for name in self._names if 0 < len(_BRACES.findall(name)) <= MOST_BRACES]

    def __contains__(self, tar: str) -> bool:
        return tar in self._names or any(_matches(pattern, tar) for pattern in self._patterns)


def _matches(pattern: str, name: str) -> bool:
    pieces = _BRACES.split(pattern)
    form = "".join("(.*?)" if at % 2 else re.escape(piece) for at, piece in enumerate(pieces))
    found = re.fullmatch(form, name, re.S)
    return bool(found) and all(map(_is_one_of, pieces[1::2], found.groups() if found else ()))


def _is_one_of(choice: str, text: str) -> bool:
    """Return whether a text is one that a pair of braces stands for: `000..899`, or `a,b`."""
    first, dots, last = choice.partition("..")
    if dots and first.isdecimal() and last.isdecimal():
        return text.isdecimal() and len(text) >= len(first) and int(first) <= int(text) <= int(last)
    return text in choice.split(",")
