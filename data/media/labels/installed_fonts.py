"""Fonts that have the letters of a text: Pillow's own, the one that LONGTAKE_FONT names, and installed ones.

Installed ones are looked for where systems keep them, and only for letters that the first ones lack.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from core.files import published_below
from core.progress import say

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

    Font = FreeTypeFont | ImageFont

SIZE = 22  # pixels
VARIABLE = "LONGTAKE_FONT"
FOLDERS = (
    *(f"{sys.prefix}/fonts", f"{sys.prefix}/share/fonts"),  # of an environment, as conda installs them
    *("~/.local/share/fonts", "~/.fonts", "~/Library/Fonts"),
    *("/usr/local/share/fonts", "/usr/share/fonts", "/Library/Fonts", "/System/Library/Fonts"),
)
NO_LETTER = "\U0010ffff"  # in no font: it is drawn as the sign for a missing letter
_SUFFIXES = {".ttf", ".otf", ".ttc", ".otc"}
_PLAIN = re.compile(r"regular|book|roman|normal", re.I)  # styles
_SPECIAL = re.compile(r"serif|mono|emoji|color|symbol|math", re.I)  # families


def fonts_for(text: str) -> list[tuple[Font, str]]:
    """Return parts of a text in the order in which they stand from left to right, each with its font.

    Empty where a letter is in no font, or where letters join or go from right to left and Pillow lacks Raqm,
    which sees to that. One font is taken for all letters where there is such.
    """
    if any(map(_is_shaped, text)) and not _can_shape():
        return []
    if (whole := _place_of(text)) is not None:
        return [(_font(whole), text)]
    parts: list[tuple[str, str]] = []  # file of a font, and letters
    for letter in text:
        if parts and (not _is_drawn(letter) or _has(parts[-1][0], letter)):
            parts[-1] = (parts[-1][0], parts[-1][1] + letter)
        elif (place := _place_of(letter)) is not None:
            parts.append((place, letter))
        else:
            return []
    is_leftward = next((way != "L" for each in text if (way := _way(each))), False)
    return [(_font(place), part) for place, part in (parts[::-1] if is_leftward else parts)]


@cache
def own_font(size: int = SIZE) -> Font:
    """Return the font that Pillow brings along.  size: of its letters in pixels."""
    from PIL import ImageFont

    return ImageFont.load_default(size)


def _place_of(text: str) -> str | None:
    """Return the first of the places whose font has all letters of a text; None where none has."""
    letters = set(filter(_is_drawn, text))
    return next((place for place in _places() if all(_has(place, each) for each in letters)), None)


def _places() -> Iterator[str]:
    """Yield the files of fonts in the order in which they are asked, "" for Pillow's own."""
    yield ""
    if named := os.environ.get(VARIABLE, ""):
        if _opened(named) is None:
            _complain(named)
        yield named
    yield from _installed()


@cache
def _complain(named: str) -> None:
    say(f"warning: {VARIABLE}={named} is no font that can be read; others are taken", of_any_rank=True)


@cache
def _installed() -> tuple[str, ...]:
    """Return the files of installed fonts, plain upright ones first."""
    found: dict[str, None] = {}
    for folder in FOLDERS:
        with contextlib.suppress(OSError):  # one that we may not see into
            for path in published_below(Path(folder).expanduser()):
                if path.suffix.lower() in _SUFFIXES:
                    found[str(path)] = None
    return tuple(sorted(filter(_opened, found), key=_oddness))


def _oddness(place: str) -> tuple[bool, bool, bool]:
    opened = _opened(place)
    assert opened is not None
    family, style = (name or "" for name in opened[1].getname())
    is_sans = "sans" in family.lower()
    return _PLAIN.search(style) is None, _SPECIAL.search(family) is not None, not is_sans


@cache
def _opened(place: str) -> tuple[Font, FreeTypeFont] | None:
    """Open a font: for drawing, and for looking up letters one by one; None for one that has no such size."""
    from PIL import ImageFont

    try:
        plain = ImageFont.truetype(place, SIZE, layout_engine=ImageFont.Layout.BASIC)
        return ImageFont.truetype(place, SIZE), plain
    except OSError:
        return None


def _font(place: str) -> Font:
    """Return the font of a place that has letters."""
    opened = _opened(place) if place else None
    return own_font() if opened is None else opened[0]


@cache
def _has(place: str, letter: str) -> bool:
    opened = _opened(place) if place else None
    if place and opened is None:
        return False
    font = own_font() if opened is None else opened[1]
    try:
        return bytes(font.getmask(letter)) != bytes(font.getmask(NO_LETTER))
    except OSError:  # the font is damaged at that letter
        return False


def _is_drawn(letter: str) -> bool:
    """Return whether a letter has a shape of its own: no space, no sign that says how others join."""
    is_variation = 0xFE00 <= ord(letter) <= 0xFE0F
    return not (letter.isspace() or unicodedata.category(letter) == "Cf" or is_variation)


def _is_shaped(letter: str) -> bool:
    return _way(letter) in ("R", "AL") or unicodedata.category(letter) in ("Mn", "Mc")


def _way(letter: str) -> str:
    """Return which way a letter of a script is written; "" for one of all scripts."""
    way = unicodedata.bidirectional(letter)
    return way if way in ("L", "R", "AL") else ""


@cache
def _can_shape() -> bool:
    from PIL import features

    return bool(features.check("raqm"))
