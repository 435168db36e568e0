"""Lists of captions that a table holds as text, as pandas writes them: `['a dog', "a cat's toy"]`."""

from __future__ import annotations

import re

_QUOTED = r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\""""
_LIST = re.compile(rf"\s*\[\s*(?:{_QUOTED})(?:[\s,]+(?:{_QUOTED}))*[\s,]*\]\s*", re.DOTALL)
_ITEM = re.compile(_QUOTED, re.DOTALL)
_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
_LETTERS = {"n": "\n", "t": "\t", "r": "\r"}


def quoted_list(text: str) -> list[str] | None:
    """Return the texts of a list of quoted texts, as Python, NumPy and JSON write it; None for other text."""
    if not text.lstrip().startswith("[") or not _LIST.fullmatch(text):
        return None
    return [_ESCAPE.sub(_meant, item[1:-1]) for item in _ITEM.findall(text)]


def _meant(escape: re.Match[str]) -> str:
    code = escape[1]
    return chr(int(code[1:], 16)) if len(code) > 1 else _LETTERS.get(code, code)
