"""What was found, and its lines on a screen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from core.escaping import escaped_line

State = Literal["ok", "note", "missing"]
MARKS = {"ok": " ", "note": "-", "missing": "!"}


@dataclass(frozen=True)
class Finding:
    """One line.  state: missing is what training cannot do without.  remedy: a command, or what to do."""

    name: str
    text: str
    state: State = "ok"
    remedy: str = ""


def lines_of(findings: Iterable[Finding]) -> list[str]:
    """Lay findings out, each remedy on a line of its own."""
    found = list(findings)
    width = max((len(each.name) for each in found), default=0)
    lines = []
    for each in found:
        lines.append(f"{MARKS[each.state]} {each.name.ljust(width)}  {escaped_line(each.text)}".rstrip())
        if each.remedy:
            lines.append(f"  {' ' * width}  {escaped_line(each.remedy)}")
    return lines
