"""Pixels of a picture: as displayed, over white, in sRGB."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from data.media.colour import HLG, PQ, ColourMode, over_white, to_display
from data.media.formats import MediaError
from data.media.stills.deep import read_codes
from data.media.stills.deep_tiff import is_deep_mode, is_for_ffmpeg, read_deep_tiff
from data.media.stills.profiles import lab_to_srgb, to_srgb
from data.media.stills.still import Still

Pixels = NDArray[np.uint8]
Codes = TypeVar("Codes", NDArray[np.uint8], NDArray[np.uint16])
_UNDONE_BY = {6: 8, 8: 6}  # quarter turns of EXIF; the other orientations undo themselves


def read_still(still: Still, mode: ColourMode) -> Pixels:
    """Read a picture, or the first one of an animation, as uint8 (H, W, 3), turned."""
    require_wanted(still, mode)
    if (codes := deep_codes(still)) is not None:
        pixels, alpha = _from_codes(still, codes, mode)
        turns = still.orientation
    else:
        require_convertible(still, mode)
        _require_no_planes(still)
        _show_first(still)
        still.image.load()
        pixels, alpha = from_image(still, still.image, mode)
        turns = 1 if still.is_turned_by_pillow else still.orientation
    return turned(shown_part(still, pixels if alpha is None else over_white(pixels, alpha)), turns)


def shown_part(still: Still, pixels: Pixels) -> Pixels:
    """Cut off what the file hides at the edges of its picture."""
    left, top, right, bottom = still.crop
    return pixels[top : pixels.shape[0] - bottom, left : pixels.shape[1] - right]


def _show_first(still: Still) -> None:
    """Pass over the picture that a PNG of one animated frame has for others than browsers."""
    if still.suffix == "png" and getattr(still.image, "n_frames", 1) > 1 and still.frames == 1:
        still.image.seek(1)


def require_wanted(still: Still, mode: ColourMode) -> None:
    """Raise MediaError if colours would have to be converted and the mode refuses that."""
    if mode != "refuse":
        return
    if not still.colour.is_plain:
        raise MediaError(f"has colours {still.colour}, and colour=refuse")
    if still.profile is not None and still.profile.transform is not None:
        raise MediaError(f"has the ICC profile {still.profile.name!r}, and colour=refuse")


def require_convertible(still: Still, mode: ColourMode) -> None:
    """Raise MediaError if a picture's colours must not be, or cannot be, brought to sRGB."""
    require_wanted(still, mode)
    cut_off = still.depth > 8 or still.suffix == "avif"  # by Pillow
    if mode == "convert" and is_hdr(still) and cut_off and (still.frames > 1 or deep_codes(still) is None):
        raise MediaError(f"is in {still.colour}, of which only 8 bits can be read")


def is_hdr(still: Still) -> bool:
    """Return whether the transfer is PQ or HLG, for which 8 bits are too few."""
    return still.colour.transfer in (PQ, HLG) and not still.colour.gamma


def deep_codes(still: Still) -> np.ndarray | None:
    """Return uint16 (H, W, C), full range, of pictures with more than 8 bits a channel; None for others.

    They are not turned yet. None too where neither FFmpeg nor `deep_tiff` reads them; of these Pillow reads
    8 bits.
    """
    if still.codes is not None:
        return still.codes
    needed = still.depth in (12, 16)  # of 12 bits, TIFF alone
    if still.suffix == "avif":
        needed = not still.colour.is_plain and "A" not in still.image.mode
    if still.suffix == "tif":  # alpha and inks as Pillow knows them
        needed = needed and is_deep_mode(still.image.mode)
    if not needed or still.frames > 1:
        return None
    if still.suffix == "tif" and not is_for_ffmpeg(still.data, still.image.tag_v2):
        codes = read_deep_tiff(still.data, still.image.tag_v2) if still.depth == 16 else None
        turned_back = _UNDONE_BY.get(still.orientation, still.orientation)  # Pillow has turned it
        return None if codes is None else turned(codes, turned_back)
    width, height = still.image.size
    is_turned = still.is_turned_by_pillow and still.orientation >= 5
    return read_codes(still.data, still.suffix, (height, width) if is_turned else (width, height))


def _require_no_planes(still: Still) -> None:
    """Raise MediaError where only Pillow is left to read channels of 16 bits that lie one after another."""
    if still.deep_planes:
        raise MediaError("is a TIFF of 16 bits in planes that cannot be read: write its channels interleaved")


def rounded(codes: np.ndarray) -> Pixels:
    """Round uint16 to the nearest uint8."""
    nearest: Pixels = ((codes.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return nearest


def _from_codes(still: Still, codes: np.ndarray, mode: ColourMode) -> tuple[Pixels, Pixels | None]:
    """Return RGB, uint8 (H, W, 3), and alpha, if there is any."""
    from PIL import Image

    colours, alpha = codes, None
    if codes.shape[-1] in (2, 4):
        colours, alpha = codes[..., :-1], rounded(codes[..., -1])
    if mode == "convert" and not still.colour.is_plain:
        rgb = np.broadcast_to(colours, (*colours.shape[:2], 3))
        return to_display(rgb, still.colour, "sRGB"), alpha
    image = Image.fromarray(rounded(colours[..., 0] if colours.shape[-1] == 1 else colours))
    return _converted(still, image, mode), alpha


def from_image(still: Still, image: Any, mode: ColourMode) -> tuple[Pixels, Pixels | None]:
    """Return RGB, uint8 (H, W, 3), and alpha, if there is any, of a loaded Pillow image."""
    from PIL import Image

    alpha = None
    if image.mode.startswith("I"):
        most = 2 ** min(still.depth, 16) - 1 if still.suffix == "tif" else 65535
        codes = np.asarray(image).astype(np.int64).clip(0, most)
        image = Image.fromarray(rounded((codes * 65535 + most // 2) // most))
    elif image.has_transparency_data:
        is_grey = image.mode in ("LA", "La")
        image = image.convert("LA" if is_grey else "RGBA")
        alpha = np.asarray(image.getchannel("A"))
        image = image.convert("L" if is_grey else "RGB")
    return _converted(still, image, mode), alpha


def _converted(still: Still, image: Any, mode: ColourMode) -> Pixels:
    """Convert a Pillow image without alpha to sRGB, uint8 (H, W, 3)."""
    if mode == "convert" and still.profile is not None:
        if image.mode != still.profile.mode:
            image = image.convert(still.profile.mode)
        image = to_srgb(image, still.profile)
    elif mode == "convert" and not still.colour.is_plain:
        codes = np.asarray(image.convert("RGB")).astype(np.uint16) * np.uint16(257)
        return to_display(codes, still.colour, "sRGB")
    elif image.mode == "LAB":
        image = lab_to_srgb(image)
    return np.asarray(image.convert("RGB"))


def turned(picture: Codes, orientation: int) -> Codes:
    """Turn pixels to the orientation that EXIF states."""
    if orientation >= 5:
        picture = picture.transpose(1, 0, 2)
    vertical, horizontal = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(picture[:: -1 if vertical else 1, :: -1 if horizontal else 1])
