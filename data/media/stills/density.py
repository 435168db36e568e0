"""Pixels that a picture declares as not square. They are shown as square, as browsers and editors do."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from data.media.stills.boxes import pixel_spacing

_JFIF_ASPECT, _GIF_ASPECT = 0, 12  # JFIF's unit that gives a ratio alone; a place in the header of a GIF
_SLACK = 0.02  # ratios as near to 1 as this are square


def declared_shape(suffix: str, image: Any, data: bytes, density: tuple[int, int]) -> str:
    """Return width to height of a pixel as `2:1`, "" if it is square or nothing is said.

    image: Pillow's.  density: (pixels across, pixels down) per unit, as a PNG has it; (0, 0) for none.
    """
    shape = _shape(suffix, image, data, density)
    if shape <= 0 or abs(shape - 1) <= _SLACK:
        return ""
    ratio = shape.limit_denominator(100)
    return f"{ratio.numerator}:{ratio.denominator}"


def _shape(suffix: str, image: Any, data: bytes, density: tuple[int, int]) -> Fraction:
    if suffix == "gif":
        return Fraction(data[_GIF_ASPECT] + 15, 64) if data[_GIF_ASPECT] else Fraction(0)
    if suffix in ("avif", "heic"):
        across, down = pixel_spacing(data)
        return Fraction(across, down) if down else Fraction(0)
    names = {"jpg": "jfif_density", "tif": "resolution" if "resolution" in image.info else "dpi"}
    dots = image.info.get(names[suffix], (0, 0)) if suffix in names else density
    wide, high = (Fraction(float(value)) for value in dots)
    if suffix == "jpg" and image.info.get("jfif_unit") == _JFIF_ASPECT:
        return wide / high if high else Fraction(0)  # a ratio of shapes, not of densities
    return high / wide if wide else Fraction(0)
