"""Write text into pictures, with a substitute for text that no font can write."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from data.media.labels.installed_fonts import VARIABLE, fonts_for

if TYPE_CHECKING:
    from data.media.labels.installed_fonts import Font

Pixels = NDArray[np.uint8]
INK = (225, 225, 225)
UNWRITTEN = f"which no font here can write ({VARIABLE}=FILE names one that can)"


def class_name(label: int, names: Sequence[str]) -> str:
    """Return the name of class `label`, its number if it has none, and nothing for no class (-1)."""
    if label < 0:
        return ""
    return names[label] if label < len(names) else str(label)


def written_name(label: int, names: Sequence[str]) -> str:
    """Return the name of class `label` as pictures show it: its number where no font can write it."""
    name = class_name(label, names)
    return name if writable(name) else str(label)


def legend(labels: Iterable[int], names: Sequence[str]) -> list[str]:
    """Return "number = name" of each of these classes that pictures show by number."""
    shown = sorted({int(label) for label in labels if label >= 0})
    return [f"{i} = {names[i]}" for i in shown if i < len(names) and written_name(i, names) != names[i]]


def writable(text: str) -> bool:
    """Return whether there are fonts for every letter of `text`."""
    return not text or bool(_parts(text))


def width(text: str) -> int:
    """Return the pixels that `text` takes from left to right."""
    return int(sum(font.getlength(part) for font, part in _parts(text)))


def write(sheet: Pixels, texts: Sequence[tuple[tuple[int, int], str]]) -> Pixels:
    """Write each text centred on its place (x, y) of `sheet` (H, W, 3)."""
    from PIL import Image, ImageDraw

    picture = Image.fromarray(sheet)
    pen = ImageDraw.Draw(picture)
    for (x, y), text in texts:
        parts = _parts(text)
        if len(parts) == 1:
            pen.text((x, y), parts[0][1], fill=INK, font=parts[0][0], anchor="mm")
            continue
        left = x - width(text) / 2
        for font, part in parts:
            pen.text((left, y), part, fill=INK, font=font, anchor="lm")
            left += font.getlength(part)
    return np.asarray(picture)


@cache
def _parts(text: str) -> tuple[tuple[Font, str], ...]:
    """Return a text on one line, part by part, with the font of each."""
    return tuple(fonts_for(" ".join(text.split())))
