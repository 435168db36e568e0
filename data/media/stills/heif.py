"""Read HEIF pictures (HEIC) through pillow-heif, the extra `heif`."""

from __future__ import annotations

import io
from typing import Any, NamedTuple

import numpy as np

from data.media.formats import MediaError, MediaLimits

EXTRA = "is a HEIF picture, which needs: pip install 'longtake[heif]'"


class HeifPicture(NamedTuple):
    """The primary picture of a file, with grid, rotation and mirroring applied.

    image: Pillow's, or a stand-in of its size where there are codes.  depth: bits of a channel.
    codes: uint16 (H, W, C), full range, where depth is over 8; else None.  pages: pictures in the file.
    profile: the ICC profile, b"" for none.
    colour: the codes of H.273 for primaries and transfer; None where the file states none.
    """

    image: Any
    depth: int
    codes: np.ndarray | None
    pages: int
    profile: bytes
    colour: tuple[int, int] | None


def read_heif(data: bytes, limits: MediaLimits) -> HeifPicture:
    """Read the primary picture whole; MediaError without the library, or where the picture is too large.

    Errors of libheif are raised as they are.
    """
    try:
        import pillow_heif
    except ImportError:
        raise MediaError(EXTRA) from None
    from PIL import Image

    heif = pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False, hdr_to_16bit=False)
    limits.check_picture(*heif.size)
    depth, stated = int(heif.info.get("bit_depth", 8)), heif.info.get("nclx_profile")
    codes = _codes(heif, depth) if depth > 8 else None
    colour = None
    if stated:
        colour = int(stated["color_primaries"]), int(stated["transfer_characteristics"])
    return HeifPicture(
        image=heif.to_pillow() if codes is None else Image.new("RGB", heif.size),
        depth=depth,
        codes=codes,
        pages=len(heif),
        profile=heif.info.get("icc_profile") or b"",
        colour=colour,
    )


def _codes(heif: Any, depth: int) -> np.ndarray:
    """Return uint16 (H, W, C), full range; colours are not multiplied by alpha."""
    most = 2**depth - 1
    values = np.asarray(heif).reshape(heif.size[1], heif.size[0], -1).astype(np.uint32)
    if heif.premultiplied_alpha:
        alpha = np.maximum(values[..., -1:], 1)
        values[..., :-1] = np.minimum((values[..., :-1] * most + alpha // 2) // alpha, most)
    return ((values * 65535 + most // 2) // most).astype(np.uint16)
