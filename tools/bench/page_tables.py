"""Tables of Markdown within a page."""

from __future__ import annotations

from core.errors import WorkError


def with_table(text: str, table: str) -> str:
    """Return a page with a table in the place of the one that begins with the same line."""
    lines, new = text.split("\n"), table.rstrip("\n").split("\n")
    if (count := lines.count(new[0])) != 1:
        raise WorkError(f"expected one table that begins {new[0]!r}; the page has {count}")
    begin = end = lines.index(new[0])
    while end < len(lines) and lines[end].startswith("|"):
        end += 1
    return "\n".join([*lines[:begin], *new, *lines[end:]])
