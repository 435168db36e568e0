"""Convert decoded frames of films to RGB: which matrix, depth, background and colours."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from data.media.colour import UNSAID, Colour, ColourMode, colour_of, over_white, to_display
from data.media.film.geometry import side_data
from data.media.formats import MediaError
from data.media.media_rules import read_anew

# H.273 codes of matrices that swscale knows; 0 is RGB.
_MATRICES = {0, 1, UNSAID, 3, 4, 5, 6, 7, 9}
_ITU709, _ITU601, _BT2020 = 1, 5, 9
_DOLBY_VISION = {"dvh1", "dvhe", "dvav", "dva1", "dav1"}
LIMITED = 1  # FFmpeg's code of the range
HD = (1280, 576)  # an untagged frame is HD if longer than the first, or its shorter side exceeds the second


class Tags(NamedTuple):
    """Codes of H.273 that a container states; ProRes, for one, writes that it does not know them."""

    primaries: int
    transfer: int
    matrix: int
    range: int

    @classmethod
    def of(cls, stream: Any) -> Tags:
        """Read the codes of a stream before decoding.

        MediaError for Dolby Vision that only its players show.
        """
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
    """matrix: swscale's number of the matrix of the frame's luma and chroma, None where frames say it.

    convert: whether colours are converted, at 16 bits.  alpha: whether frames are laid over white.
    limited_grey: whether they are grey of limited range, which swscale takes for full.
    """

    colour: Colour
    matrix: int | None
    convert: bool
    alpha: bool
    limited_grey: bool = False

    @property
    def format(self) -> str:
        """FFmpeg's name of the format of swscale's output: planes, as packed RGB takes over twice as long."""
        return f"gbr{'a' * self.alpha}p{'16le' * self.convert}"


def look_of(frame: Any, mode: ColourMode) -> Look:
    """Return what a decoded frame says of its colours, and what is done.

    MediaError if that cannot be done.
    """
    has_alpha = has_transparency(frame.format)
    if frame.format.is_rgb or frame.colorspace in _MATRICES:
        matrix = _untagged(frame) if frame.colorspace == UNSAID and not frame.format.is_rgb else None
    else:
        raise MediaError(f"has colour matrix {frame.colorspace} of H.273, which is not converted")
    colour = colour_of(frame.color_primaries, frame.color_trc)
    if mode == "refuse" and not colour.is_plain:
        raise MediaError(f"has colours {colour}, and colour=refuse")
    converts = mode == "convert" and not colour.is_plain
    return Look(colour, matrix, converts, has_alpha, is_limited_grey(frame))


def film_found(frame: Any, mode: ColourMode) -> dict[str, str]:
    """Describe in words what a frame says of its colours, for `data.media.formats.Media.found`."""
    look = look_of(frame, mode)
    kept = ", kept" * (mode == "keep")
    found = {}
    if not look.colour.is_plain:
        found["colour"] = f"{look.colour}{kept}"
    if look.matrix is not None and look.matrix != _ITU601:
        found["matrix"] = "not said, taken for BT.2020" if look.matrix == _BT2020 else "not said, HD"
    if look.alpha:
        found["alpha"] = "transparent"
    if side_data(frame, "ICC_PROFILE") is not None:  # as frames of PNG and JPEG may carry
        found["film_profile"] = "not applied"
    if side_data(frame, "STEREO3D") is not None:
        found["views"] = "several, as they are stored"
    if look.limited_grey:
        found |= read_anew("a grey film of limited range", 4)
    return found


def has_transparency(format: Any) -> bool:
    """Return whether frames of this format have alpha; a palette's is left out, which files do not state."""
    return not format.has_palette and any(component.is_alpha for component in format.components)


def is_limited_grey(frame: Any) -> bool:
    """Return whether a frame has luma alone, and says that it is of limited range."""
    return frame.color_range == LIMITED and frame.format.name.startswith(("gray", "ya"))


def _expanded(plane: np.ndarray) -> np.ndarray:
    """Bring luma of limited range, 16 to 235 of 255, to full range."""
    whole = np.iinfo(plane.dtype).max
    full = (plane.astype(np.float32) - 16 / 255 * whole) * (255 / 219)
    return np.rint(full).clip(0, whole).astype(plane.dtype)


def _untagged(frame: Any) -> int:
    """Return the matrix of a film that states none: its primaries', else BT.709 in HD and BT.601 below."""
    if frame.color_primaries == 9:
        return _BT2020
    long, short = max(frame.width, frame.height), min(frame.width, frame.height)
    return _ITU709 if long >= HD[0] or short > HD[1] else _ITU601


def to_rgb(frame: Any, look: Look) -> list[NDArray[np.uint8]]:
    """Convert a frame in `look.format` to red, green and blue, uint8 (H, W) each."""
    planes = planes_of(frame, look)
    if look.limited_grey:
        planes[:3] = [_expanded(planes[0])] * 3
    if not look.convert and not look.alpha:
        return planes
    rgb: NDArray[np.uint8] = np.stack(planes[:3], -1)
    if look.convert:
        rgb = to_display(rgb, look.colour, "BT.709")
    if look.alpha:
        rgb = over_white(rgb, planes[3] // 257 if look.convert else planes[3])
    return [rgb[..., channel] for channel in range(3)]


def planes_of(frame: Any, look: Look) -> list[np.ndarray]:
    """Return the planes, (H, W) each: red, green, blue and, where there is one, alpha."""
    order = (2, 0, 1, 3) if look.alpha else (2, 0, 1)
    dtype = np.dtype("<u2" if look.convert else np.uint8)
    found = []
    for number in order:
        plane = frame.planes[number]
        rows = np.frombuffer(memoryview(plane), dtype).reshape(-1, plane.line_size // dtype.itemsize)
        found.append(rows[: frame.height, : frame.width])
    return found
