"""Geometry of shown frames: mirrored or turned, cut to a rectangle, with pixels that are not square.

The display matrix maps (x, y) of a stored picture to (a x + c y, b x + d y) (ISO/IEC 14496-12, 6.2.2, and
`libavutil/display.h`). Without its scale it is one of the eight symmetries of a rectangle.
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from data.media.formats import MediaError

SQUARE = Fraction(1)
_MOST_TILT = math.sin(math.radians(1))  # ffmpeg takes a matrix within one degree for an exact turn


class Crop(NamedTuple):
    """Numbers of pixels at each edge of the decoded picture that the container declares as hidden."""

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0


class Turn(NamedTuple):
    """A symmetry of the rectangle: first swap rows and columns, then mirror the result."""

    swap: bool = False
    mirror_x: bool = False
    mirror_y: bool = False

    @property
    def name(self) -> str:
        """The name for people; turns are clockwise."""
        return _NAMES[self]

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """Return a view of (H, W, ...) as it is shown."""
        if self.swap:
            picture = picture.swapaxes(0, 1)
        return picture[:: -1 if self.mirror_y else 1, :: -1 if self.mirror_x else 1]


_NAMES = {
    Turn(False, False, False): "as stored",
    Turn(True, True, False): "turned 90",
    Turn(False, True, True): "turned 180",
    Turn(True, False, True): "turned 270",
    Turn(False, True, False): "mirrored left-right",
    Turn(False, False, True): "mirrored up-down",
    Turn(True, False, False): "transposed",
    Turn(True, True, True): "anti-transposed",
}
MIRRORED = {name for turn, name in _NAMES.items() if (turn.swap + turn.mirror_x + turn.mirror_y) % 2}


def turn_of(frame: Any) -> Turn:
    """Return the symmetry that the display matrix of a frame asks for.

    MediaError if it is none of the eight.
    """
    data = side_data(frame, "DISPLAYMATRIX")
    return Turn() if data is None else turn_of_matrix(struct.unpack("=9i", bytes(data)))


def side_data(frame: Any, kind: str) -> Any:
    """Return what a frame carries of this kind of PyAV's; None if it carries none."""
    _name_unknown_kinds()
    return frame.side_data.get(kind)


@functools.cache
def _name_unknown_kinds() -> None:
    """Let PyAV list side data of kinds that it has no name for, where else reading any of it is a ValueError.

    PyAV 18 names 27; the FFmpeg it brings gives later ones to frames that carry EXIF, and to those of films
    with several views.
    """
    from av.sidedata.sidedata import Type

    def unknown(kinds: Any, number: int) -> Any:
        kind = object.__new__(kinds)
        kind._name_, kind._value_ = f"KIND_{number}", number
        return kind

    Type._missing_ = classmethod(unknown)  # type: ignore[method-assign, assignment]


def turn_of_matrix(matrix: Sequence[int]) -> Turn:
    """Return the same for nine fixed-point numbers, row by row."""
    a, b, _, c, d = matrix[:5]
    along, across = min(abs(a), abs(d)), max(abs(b), abs(c))
    swap = along < across
    if swap:
        along, across = min(abs(b), abs(c)), max(abs(a), abs(d))
    if along == 0 or across > _MOST_TILT * math.hypot(along, across):
        degrees = math.degrees(math.atan2(b, a))
        raise MediaError(f"its display matrix turns by {degrees:.1f} degrees; multiples of 90 are read")
    return Turn(True, c < 0, b < 0) if swap else Turn(False, a < 0, d < 0)


class Geometry(NamedTuple):
    """Geometry of the pictures of a stream. aspect: width of a stored pixel over its height."""

    aspect: Fraction = SQUARE
    crop: Crop = Crop()

    def box(self, width: int, height: int) -> tuple[int, int, int, int]:
        """Return (left, top, width, height) of the shown part of a decoded picture.

        MediaError if it is empty.
        """
        left, top, right, bottom = self.crop
        if left + right >= width or top + bottom >= height:
            raise MediaError(f"its cropping {tuple(self.crop)} leaves nothing of {width}x{height} pixels")
        return left, top, width - left - right, height - top - bottom

    def shown(self, width: int, height: int, turn: Turn) -> tuple[int, int]:
        """Return (height, width) as displayed of a decoded picture of width x height pixels.

        Pixels become square by enlarging the shorter side of each, so that none is lost, as mpv does; the
        matrix applies to what comes of it.
        """
        wide, high = self.square(width, height)
        size = max(1, round(high)), max(1, round(wide))
        return size[::-1] if turn.swap else size

    def square(self, width: int, height: int) -> tuple[Fraction, Fraction]:
        """Return the exact (width, height) in square pixels of the shown part, before it is turned."""
        _, _, across, down = self.box(width, height)
        return across * max(SQUARE, self.aspect), down / min(SQUARE, self.aspect)


def pixel_aspect(stream: Any) -> Fraction:
    """Return the sample aspect ratio that the container states, or else the codec; 1 if neither does."""
    aspect = stream.sample_aspect_ratio
    return Fraction(aspect) if aspect else SQUARE
