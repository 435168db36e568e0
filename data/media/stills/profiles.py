"""ICC profiles of pictures: LittleCMS, through Pillow, converts pixels to sRGB."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

_MODES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab ": "LAB"}
_STEPS = 17  # of each channel, in the colours by which a profile is compared with sRGB


class Profile(NamedTuple):
    """An ICC profile that can be used. mode: Pillow's, of the pixels it is for.

    transform: to sRGB; None where that changes nothing by more than rounding.
    """

    name: str
    mode: str
    transform: Any


@lru_cache(32)
def read_profile(data: bytes) -> Profile | None:
    """The profile in these bytes; None if it is damaged, or for pixels that no picture here has."""
    from PIL import Image, ImageCms

    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(data))
        mode = _MODES.get(profile.profile.xcolor_space)
        if mode is None:
            return None
        name = ImageCms.getProfileDescription(profile).strip() or "without name"
        intent = ImageCms.Intent.PERCEPTUAL
        transform: Any = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB", intent)
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return None
    if mode == "RGB":
        steps = np.linspace(0, 255, _STEPS).round().astype(np.uint8)
        colours = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(_STEPS, -1, 3)
        changed = np.asarray(ImageCms.applyTransform(Image.fromarray(colours), transform))
        if np.abs(changed.astype(int) - colours).max() <= 1:
            transform = None
    return Profile(" ".join(name.split())[:80], mode, transform)


def to_srgb(image: Any, profile: Profile) -> Any:
    """A Pillow image of the profile's mode -> RGB."""
    from PIL import ImageCms

    if profile.transform is None:
        return image
    return ImageCms.applyTransform(image, profile.transform)


@lru_cache(1)
def _lab() -> Any:
    from PIL import ImageCms

    profiles = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(*profiles, "LAB", "RGB")


def lab_to_srgb(image: Any) -> Any:
    """A Pillow image of mode LAB (D50, as TIFF has it) -> RGB."""
    from PIL import ImageCms

    return ImageCms.applyTransform(image, _lab())
