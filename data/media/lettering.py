"""Write text into pictures, with a substitute for text that the font cannot write."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont, ImageFont

Pixels = NDArray[np.uint8]
SIZE = 22  # pixels
INK = (225, 225, 225)
NO_LETTER = "\U0010ffff"  # in no font: it is drawn as the sign for a missing letter


def class_name(label: int, names: Sequence[str]) -> str:
    """Return the name of class `label`, its number if it has none, and nothing for no class (-1)."""
    if label < 0:
        return ""
    return names[label] if label < len(names) else str(label)


def written_name(label: int, names: Sequence[str]) -> str:
    """Return the name of class `label` as pictures show it: its number where the font lacks a letter."""
    name = class_name(label, names)
    return name if writable(name) else str(label)


def legend(labels: Iterable[int], names: Sequence[str]) -> list[str]:
    """Return "number = name" of each of these classes that pictures show by number."""
    shown = sorted({int(label) for label in labels if label >= 0})
    return [f"{i} = {names[i]}" for i in shown if i < len(names) and written_name(i, names) != names[i]]


def writable(text: str) -> bool:
    """Return whether the font has every letter of `text`."""
    return all(_has(letter) for letter in text)


def width(text: str) -> int:
    """Return the pixels that `text` takes from left to right."""
    return int(font().getlength(text))


def write(sheet: Pixels, texts: Sequence[tuple[tuple[int, int], str]]) -> Pixels:
    """Write each text centred on its place (x, y) of `sheet` (H, W, 3)."""
    from PIL import Image, ImageDraw

    picture = Image.fromarray(sheet)
    pen = ImageDraw.Draw(picture)
    for place, text in texts:
        pen.text(place, text, fill=INK, font=font(), anchor="mm")
    return np.asarray(picture)


@cache
def font(size: int = SIZE) -> FreeTypeFont | ImageFont:
    """Return the font that texts are written with.  size: of its letters in pixels."""
    from PIL import ImageFont

    return ImageFont.load_default(size)


@cache
def _has(letter: str) -> bool:
    return letter.isspace() or bytes(font().getmask(letter)) != bytes(font().getmask(NO_LETTER))
