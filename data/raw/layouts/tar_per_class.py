"""ImageNet's form: a tar for each class, whose files are called as the tar is, `n01440764_10026.JPEG`.

Tars called `cat.tar` and `dog.tar` with other files in them may be classes as well as sources or vendors, so
their names are classes with `classes=true` alone; otherwise what was not taken is said.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import PurePosixPath

from data.raw.annotations.split_names import is_split
from data.raw.item import printable

MOST_SHOWN = 6  # names of tars in a line


def classes_by_name(tars: Sequence[str]) -> dict[str, str]:
    """Return the class of each tar, or table, by its name, without the number of its part (`cat-000001.tar`).

    {} where all are parts of one name, some have a number alone, or all name splits.
    """
    classes = {name: _word(name) for name in tars}
    words = set(classes.values())
    return classes if len(words) > 1 and all(words) and not all(map(is_split, words)) else {}


def fits(tar: str, keys: Sequence[str]) -> bool:
    """Return whether the samples of a tar share its name. keys: of those with a picture."""
    pattern = re.compile(re.escape(PurePosixPath(tar).stem) + r"[-_ ]?\d+", re.I)
    return bool(keys) and all(pattern.fullmatch(key.removeprefix("./")) for key in keys)


def not_taken(kind: str, classes: Iterable[str]) -> str:
    """Return the line that says that names of `tars` or `tables` are no classes, and what takes them."""
    names = sorted(set(classes))
    shown = ", ".join(names[:MOST_SHOWN]) + (" ..." if len(names) > MOST_SHOWN else "")
    return (
        f"names of {kind} ({shown}) are no classes, since nothing in them says so (classes=true takes them)"
    )


def _word(tar: str) -> str:
    """Return the name of a tar without the number at its end, "" for a number alone."""
    return printable(re.sub(r"([-_.]\d+)?[-_.]of[-_.]\d+$|[-_.]\d+$|^\d+$", "", PurePosixPath(tar).stem))
