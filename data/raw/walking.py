"""Walk the files of a folder: which are looked at, which are passed over, where links lead."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from data.raw.findings import Findings
from data.raw.ignored import LateNames, ignored_as, owners_among
from data.raw.opening import is_within
from data.raw.rules import Links

_PART = re.compile(r"(.+)-(\d+)-of-(\d+)(\.\w+)", re.DOTALL)
MOST_PARTS = 100_000  # of one dataset, looked for
OUTSIDE = "link out of the source (links=follow reads it)"
LINKED_FOLDER = "linked folder"


def walk(source: Path, links: Links, findings: Findings) -> list[str]:
    """List the files below `source`, relative to it and sorted; those passed over are counted instead.

    Linked folders are entered with links=follow alone, each real folder once, and files behind links that
    leave the source are read then alone. A folder that cannot be read is kept in `findings.errors`.
    """
    root = os.path.realpath(source)
    names: list[str] = []
    entered = {root}
    for folder, folders, files in os.walk(
        source, onerror=findings.errors.append, followlinks=links == "follow"
    ):
        relative = Path(folder).relative_to(source)
        folders[:] = [
            name
            for name in sorted(folders)
            if _enters(os.path.join(folder, name), (relative / name).as_posix(), links, entered, findings)
        ]
        here = [(relative / file).as_posix() for file in files]
        owners = LateNames(owners_among(here))
        for file, name in zip(files, here, strict=True):
            if kind := ignored_as(name, owners):
                findings.ignored[kind] += 1
            elif links == "inside" and _leaves(os.path.join(folder, file), str(source)):
                findings.ignored[OUTSIDE] += 1
            else:
                names.append(name)
    return sorted(names)


def missing_parts(names: Iterable[str]) -> list[str]:
    """Say of files called `NAME-00000-of-00003.SUFFIX` which of them are not there."""
    found: dict[tuple[str, str, str], set[int]] = {}
    for name in names:
        if match := _PART.fullmatch(name):
            found.setdefault((match[1], match[3], match[4]), set()).add(int(match[2]))
    said = []
    for (stem, count, suffix), numbers in sorted(found.items()):
        first = 1 if int(count) in numbers else 0
        wanted = set(range(first, int(count) + first)) if int(count) <= MOST_PARTS else set()
        absent = sorted(wanted - numbers)
        if absent:
            shown = ", ".join(map(str, absent[:6])) + (" ..." if len(absent) > 6 else "")
            files = f"{int(count)} files {stem}-N-of-{count}{suffix}"
            said.append(f"warning: of the {files} {len(absent)} are not there: {shown}")
    return said


def _enters(path: str, name: str, links: Links, entered: set[str], findings: Findings) -> bool:
    """Return whether a folder is looked into; count it if it is not."""
    if kind := ignored_as(f"{name}/") or ignored_as(f"{name}/x"):
        findings.ignored[kind] += 1
        return False
    if os.path.islink(path):
        if links == "inside":
            findings.ignored[LINKED_FOLDER] += 1
            return False
        real = os.path.realpath(path)
        if real in entered:
            findings.ignored["linked folder that was read already"] += 1
            return False
        entered.add(real)
    return True


def _leaves(path: str, root: str) -> bool:
    """Return whether a file is a link to something outside; a broken link inside is met where it is read."""
    if not os.path.islink(path):
        return False
    return not is_within(path, root)
