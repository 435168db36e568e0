"""Escape untrusted text before it is shown: control characters and direction marks are spelled out.

A caption, a file name or a class may hold escape sequences, which move the cursor, set a title or type for
the person, and marks that show text backwards. `core.terminal` passes all that is printed through `escaped`,
and `in_html` is for whatever becomes part of a page.
"""

from __future__ import annotations

import html
import re

# Unicode's categories Cc (controls), Zl and Zp (line and paragraph separators), the marks that set the
# direction of text (UAX #9, section 2), invisible tags, and lone surrogates; but no tabs and line feeds.
_CONTROLS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
_WITH_LINES = re.compile(_CONTROLS.pattern.replace("\x00-\x08\x0b-\x1f", "\x00-\x1f"))


def escaped(text: str) -> str:
    r"""Write control characters of several lines of text as `\u001b`; "\n" and tabs stay.

    The form is that of JSON, so what was valid JSON stays so, and means the same.
    """
    return _CONTROLS.sub(_spelled, text)


def escaped_line(text: str) -> str:
    r"""Write control characters of a text that is one line or part of one, "\n" and tabs among them."""
    return _WITH_LINES.sub(_spelled, text)


def in_html(text: object) -> str:
    """Write a text for HTML, within elements and within attributes in quotes."""
    return html.escape(escaped(str(text)))


def _spelled(found: re.Match[str]) -> str:
    units = found[0].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[n : n + 2].hex()}" for n in range(0, len(units), 2))
