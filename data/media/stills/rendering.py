"""Pixels of a picture: as displayed, over white, in sRGB."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.media.colour import HLG, PQ, ColourMode, over_white, to_display
from data.media.formats import MediaError
from data.media.stills.deep import read_codes
from data.media.stills.profiles import lab_to_srgb, to_srgb
from data.media.stills.still import Still

Pixels = NDArray[np.uint8]


def read_still(still: Still, mode: ColourMode) -> Pixels:
    """uint8 (H, W, 3), turned; of an animation the first picture."""
    require_wanted(still, mode)
    if (codes := deep_codes(still)) is not None:
        pixels, alpha = _from_codes(still, codes, mode)
        turns = still.orientation
    else:
        require_convertible(still, mode)
        still.image.load()
        pixels, alpha = from_image(still, still.image, mode)
        turns = 1 if still.is_turned_by_pillow else still.orientation
    return turned(pixels if alpha is None else over_white(pixels, alpha), turns)


def require_wanted(still: Still, mode: ColourMode) -> None:
    """MediaError if colours had to be converted, and are not to be."""
    if mode != "refuse":
        return
    if not still.colour.is_plain:
        raise MediaError(f"has colours {still.colour}, and colour=refuse")
    if still.profile is not None and still.profile.transform is not None:
        raise MediaError(f"has the ICC profile {still.profile.name!r}, and colour=refuse")


def require_convertible(still: Still, mode: ColourMode) -> None:
    """MediaError if a picture's colours are not to be, or cannot be, brought to sRGB."""
    require_wanted(still, mode)
    cut_off = still.depth > 8 or still.suffix == "avif"  # by Pillow
    if mode == "convert" and is_hdr(still) and cut_off and (still.frames > 1 or deep_codes(still) is None):
        raise MediaError(f"is in {still.colour}, of which only 8 bits can be read")


def is_hdr(still: Still) -> bool:
    """Whether its light is that of PQ or HLG, for which 8 bits are too few."""
    return still.colour.transfer in (PQ, HLG) and not still.colour.gamma


def deep_codes(still: Still) -> np.ndarray | None:
    """uint16 (H, W, C), full range, of pictures that have more than 8 bits a channel; None of others.

    They are not turned yet. None too where FFmpeg does not read them; of these Pillow reads 8 bits.
    """
    if still.codes is not None:
        return still.codes
    needed = still.depth == 16
    if still.suffix == "avif":
        needed = not still.colour.is_plain and "A" not in still.image.mode
    if still.suffix == "tif":  # alpha and inks as Pillow knows them
        needed = needed and (still.image.mode == "RGB" or still.image.mode.startswith("I"))
    if not needed or still.frames > 1:
        return None
    width, height = still.image.size
    turned = still.is_turned_by_pillow and still.orientation >= 5
    return read_codes(still.data, still.suffix, (height, width) if turned else (width, height))


def rounded(codes: np.ndarray) -> Pixels:
    """uint16 -> uint8, to the nearest."""
    nearest: Pixels = ((codes.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return nearest


def _from_codes(still: Still, codes: np.ndarray, mode: ColourMode) -> tuple[Pixels, Pixels | None]:
    """RGB, uint8 (H, W, 3), and alpha, if there is any."""
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
    """RGB, uint8 (H, W, 3), and alpha, if there is any, of a loaded Pillow image."""
    from PIL import Image

    alpha = None
    if image.mode.startswith("I"):
        image = Image.fromarray(rounded(np.asarray(image).astype(np.int64).clip(0, 65535)))
    elif image.has_transparency_data:
        is_grey = image.mode in ("LA", "La")
        image = image.convert("LA" if is_grey else "RGBA")
        alpha = np.asarray(image.getchannel("A"))
        image = image.convert("L" if is_grey else "RGB")
    return _converted(still, image, mode), alpha


def _converted(still: Still, image: Any, mode: ColourMode) -> Pixels:
    """A Pillow image without alpha -> sRGB, uint8 (H, W, 3)."""
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


def turned(picture: Pixels, orientation: int) -> Pixels:
    """As EXIF says that it is displayed."""
    if orientation >= 5:
        picture = picture.transpose(1, 0, 2)
    vertical, horizontal = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return np.ascontiguousarray(picture[:: -1 if vertical else 1, :: -1 if horizontal else 1])
