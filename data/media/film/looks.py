"""How decoded frames of films become RGB: by which matrix, at which depth, over what, in which colours."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.media.colour import UNSAID, Colour, ColourMode, colour_of, over_white, to_display
from data.media.formats import MediaError

# H.273 codes of matrices that swscale knows; 0 is RGB.
_MATRICES = {0, 1, UNSAID, 3, 4, 5, 6, 7, 9}
_ITU709, _ITU601, _BT2020 = 1, 5, 9
_DOLBY_VISION = {"dvh1", "dvhe", "dvav", "dva1", "dav1"}
HD = (1280, 576)  # an untagged frame is HD if longer than the first, or its shorter side exceeds the second


class Tags(NamedTuple):
    """Codes of H.273 that a container states; ProRes, for one, writes that it does not know them."""

    primaries: int
    transfer: int
    matrix: int
    range: int

    @classmethod
    def of(cls, stream: Any) -> Tags:
        """Of a stream of which nothing was decoded; MediaError of Dolby Vision that only its players show."""
        context = stream.codec_context
        if context.codec_tag in _DOLBY_VISION and context.color_trc == UNSAID:
            raise MediaError("is Dolby Vision without a base layer in PQ or HLG, which is not converted")
        return cls(context.color_primaries, context.color_trc, context.colorspace, context.color_range)

    def complete(self, frame: Any) -> None:
        """Fill in what a frame does not say."""
        if frame.color_primaries == UNSAID:
            frame.color_primaries = self.primaries
        if frame.color_trc == UNSAID:
            frame.color_trc = self.transfer
        if frame.colorspace == UNSAID and not frame.format.is_rgb:
            frame.colorspace = self.matrix
        if frame.color_range == 0:
            frame.color_range = self.range


class Look(NamedTuple):
    """matrix: swscale's number of what the frame's luma and chroma are made by, None where frames say it.

    convert: whether colours are converted, at 16 bits.  alpha: whether frames are laid over white.
    """

    colour: Colour
    matrix: int | None
    convert: bool
    alpha: bool

    @property
    def format(self) -> str:
        """FFmpeg's name of what swscale makes: planes, since packed RGB takes more than twice as long."""
        return f"gbr{'a' * self.alpha}p{'16le' * self.convert}"


def look_of(frame: Any, mode: ColourMode) -> Look:
    """What a decoded frame says of its colours, and what is done; MediaError if that cannot be done."""
    has_alpha = has_transparency(frame.format)
    if frame.format.is_rgb or frame.colorspace in _MATRICES:
        matrix = _untagged(frame) if frame.colorspace == UNSAID and not frame.format.is_rgb else None
    else:
        raise MediaError(f"has colour matrix {frame.colorspace} of H.273, which is not converted")
    colour = colour_of(frame.color_primaries, frame.color_trc)
    if mode == "refuse" and not colour.is_plain:
        raise MediaError(f"has colours {colour}, and colour=refuse")
    return Look(colour, matrix, mode == "convert" and not colour.is_plain, has_alpha)


def film_found(frame: Any, mode: ColourMode) -> dict[str, str]:
    """What a frame says of its colours, in words, for `data.media.formats.Media.found`."""
    look = look_of(frame, mode)
    kept = ", kept" * (mode == "keep")
    found = {}
    if not look.colour.is_plain:
        found["colour"] = f"{look.colour}{kept}"
    if look.matrix is not None and look.matrix != _ITU601:
        found["matrix"] = "not said, taken for BT.2020" if look.matrix == _BT2020 else "not said, HD"
    if look.alpha:
        found["alpha"] = "transparent"
    return found


def has_transparency(format: Any) -> bool:
    """Whether frames of this format have alpha; a palette's is left out, which files do not state."""
    return not format.has_palette and any(component.is_alpha for component in format.components)


def _untagged(frame: Any) -> int:
    """The matrix of a film that says none: as its primaries, else BT.709 in HD and BT.601 below."""
    if frame.color_primaries == 9:
        return _BT2020
    long, short = max(frame.width, frame.height), min(frame.width, frame.height)
    return _ITU709 if long >= HD[0] or short > HD[1] else _ITU601


def to_rgb(frame: Any, look: Look) -> list[NDArray[np.uint8]]:
    """A frame in `look.format` -> red, green and blue, uint8 (H, W)."""
    planes = planes_of(frame, look)
    if not look.convert and not look.alpha:
        return planes
    rgb: NDArray[np.uint8] = np.stack(planes[:3], -1)
    if look.convert:
        rgb = to_display(rgb, look.colour, "BT.709")
    if look.alpha:
        rgb = over_white(rgb, planes[3] // 257 if look.convert else planes[3])
    return [rgb[..., channel] for channel in range(3)]


def planes_of(frame: Any, look: Look) -> list[np.ndarray]:
    """(H, W) each: of red, green, blue and, where there is one, alpha."""
    order = (2, 0, 1, 3) if look.alpha else (2, 0, 1)
    dtype = np.dtype("<u2" if look.convert else np.uint8)
    found = []
    for number in order:
        plane = frame.planes[number]
        rows = np.frombuffer(memoryview(plane), dtype).reshape(-1, plane.line_size // dtype.itemsize)
        found.append(rows[: frame.height, : frame.width])
    return found
