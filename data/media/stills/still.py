"""Open a picture with the decoder that its content names, and gather what it declares beside its pixels."""

from __future__ import annotations

import contextlib
import functools
import io
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from data.media.colour import ADOBE, BT709, PRIMARIES, UNSAID, Colour, colour_of
from data.media.film.geometry import Crop
from data.media.formats import IMAGE_FORMATS, VIDEO_FORMATS, MediaError, MediaLimits, suffix_of
from data.media.stills.bitmap import read_bitmap
from data.media.stills.boxes import cropped, nclx
from data.media.stills.canvases import with_clear_canvas
from data.media.stills.heif import read_heif
from data.media.stills.jpeg_parts import JpegParts, read_jpeg
from data.media.stills.png_chunks import SRGB, read_png
from data.media.stills.profiles import Profile, read_profile

UNCUT = Crop()
PLAIN = Colour(*PRIMARIES[BT709], SRGB)
ADOBE_GAMMA = 563 / 256
_ORIENTATION, _EXIF_IFD, _COLOUR_SPACE, _INTEROP_IFD = 0x0112, 0x8769, 0xA001, 0xA005
_NEW_SUBFILE, _DNG_VERSION, _EXTRA_SAMPLES, _BITS, _SAMPLE_FORMAT, _PLANAR = 254, 50706, 338, 258, 339, 284
_PALETTE, _COMPRESSION, _WEBP = 320, 259, 50001
# Pillow's mode of an image -> of the profile that fits; all others are RGB.
_PROFILE_MODES = {
    **{"1": "L", "L": "L", "LA": "L", "La": "L", "I;16": "L", "I;16B": "L", "I": "L"},
    **{"CMYK": "CMYK", "LAB": "LAB"},
}
_PILLOW_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    LookupError,
    TypeError,
    struct.error,
    zlib.error,
    RuntimeError,  # of libavif and libheif
    ZeroDivisionError,  # Pillow's, of an animation whose clock stands still
)


@dataclass(frozen=True)
class Still:
    """An open picture. image: Pillow's, not loaded yet.  data: the bytes of the file.

    codes: uint16 (H, W, C), full range, where a HEIF picture has more than 8 bits; image is then a stand-in.
    colour: what codes mean where no profile says so.  orientation: as EXIF has it, 1 to 8.
    deep_planes: whether 16-bit channels lie one after another, which Pillow misreads.
    crop: what an AVIF hides at its edges, before it is turned.  density: of a PNG, pixels of a unit.
    depth: bits of a channel.  ignored: metadata that is damaged or larger than any use, in words.
    """

    suffix: str
    image: Any
    data: bytes
    colour: Colour = PLAIN
    profile: Profile | None = None
    orientation: int = 1
    depth: int = 8
    ignored: tuple[str, ...] = ()
    codes: np.ndarray | None = None
    pages: int = 1
    deep_planes: bool = False
    crop: Crop = UNCUT
    density: tuple[int, int] = (0, 0)

    @property
    def is_turned_by_pillow(self) -> bool:
        """Whether Pillow applies `orientation` itself when it loads the image; its size is as displayed."""
        return self.suffix == "tif"

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) as displayed."""
        left, top, right, bottom = self.crop
        width, height = self.image.size[0] - left - right, self.image.size[1] - top - bottom
        turns = self.orientation >= 5 and not self.is_turned_by_pillow
        return (height, width) if turns else (width, height)

    @property
    def has_alpha(self) -> bool:
        """Whether it has an alpha channel, or a colour that is clear."""
        if self.codes is not None:
            return self.codes.shape[-1] in (2, 4)
        return bool(self.image.has_transparency_data)

    @functools.cached_property
    def jpeg(self) -> JpegParts:
        """How a JPEG is made up."""
        return read_jpeg(self.data)

    @property
    def frames(self) -> int:
        """Pictures of an animation; 1 for others, also where a TIFF has several pages."""
        if self.suffix in ("jpg", "tif", "bmp", "heic"):
            return 1
        shown = int(getattr(self.image, "n_frames", 1))
        return shown - bool(shown > 1 and self.image.info.get("default_image"))


@contextlib.contextmanager
def opened_still(data: bytes, limits: MediaLimits) -> Iterator[Still]:
    """Open a picture; every error of its decoder until it closes becomes a MediaError of one line."""
    from PIL import Image, UnidentifiedImageError

    limits.check_bytes(len(data))
    if (suffix := suffix_of(data)) in VIDEO_FORMATS:
        raise MediaError("is a video, not an image")
    try:
        if suffix == "heic":
            yield _heif(data, limits)
            return
        png = read_png(data) if suffix == "png" else None
        file = io.BytesIO(png.pixels if png else with_clear_canvas(data) if suffix == "webp" else data)
        with Image.open(file, formats=[IMAGE_FORMATS[suffix]]) as image:
            limits.check_picture(*image.size)
            still = Still(suffix, image, data)
            if png:
                profile = _profiled(still, png.profile)
                ignored = (*profile.ignored, *png.ignored)
                still = replace(profile, colour=png.colour or PLAIN, depth=png.depth, ignored=ignored)
                still = replace(still, density=png.density)
            elif suffix == "bmp":
                bitmap, ignored = read_bitmap(data)
                still = _profiled(replace(still, ignored=ignored), bitmap)
            else:
                still = _profiled(still, image.info.get("icc_profile", b""))
            yield _by_kind(_oriented(still))
    except Image.DecompressionBombError as error:
        raise MediaError(f"claims too many pixels ({error})") from None
    except MediaError:
        raise
    except UnidentifiedImageError:  # its text holds an address in memory
        if suffix == "jpg" and (form := read_jpeg(data).form):
            raise MediaError(f"is a {form}, which is not read: save it as PNG") from None
        forms = ", or one of a form that is not read: save it as PNG" if suffix == "tif" else ""
        raise MediaError(
            f"damaged image: header is not that of a {IMAGE_FORMATS[suffix]} file{forms}"
        ) from None
    except _PILLOW_ERRORS as error:
        raise _damaged(error) from None


def opened_image(data: bytes, suffix: str) -> Any:
    """Open a picture of this kind, or a part of one, as Pillow's image."""
    from PIL import Image

    return Image.open(io.BytesIO(data), formats=[IMAGE_FORMATS[suffix]])


def _damaged(error: Exception) -> MediaError:
    """Return a decoder's complaint as a MediaError of one line."""
    return MediaError(f"damaged image: {' '.join(str(error).split()) or type(error).__name__}")


def _profiled(still: Still, data: bytes | None) -> Still:
    """Add an ICC profile. data: b"" for none; None for one of which parts are missing."""
    if data is not None and not data:
        return still
    profile = read_profile(bytes(data)) if data else None
    if profile is None:
        return replace(still, ignored=(*still.ignored, "damaged ICC profile"))
    if profile.mode != _PROFILE_MODES.get(still.image.mode, "RGB"):
        wrong = () if profile.transform is None else ("ICC profile for other pixels",)
        return replace(still, ignored=still.ignored + wrong)
    return replace(still, profile=profile)


def _oriented(still: Still) -> Still:
    """Add what EXIF says; damaged EXIF is no damage to the picture."""
    try:
        exif = still.image.getexif()
        if not len(exif) and still.image.info.get("exif"):
            return replace(still, ignored=(*still.ignored, "damaged EXIF"))
        orientation = exif.get(_ORIENTATION, 1)
        adobe = still.suffix == "jpg" and still.profile is None and _says_adobe(exif)
    except _PILLOW_ERRORS:
        return replace(still, ignored=(*still.ignored, "damaged EXIF"))
    if orientation not in range(1, 9):
        still = replace(still, ignored=(*still.ignored, "damaged EXIF"))
        orientation = 1
    colour = Colour(*ADOBE, UNSAID, ADOBE_GAMMA) if adobe else still.colour
    return replace(still, orientation=orientation, colour=colour)


def _says_adobe(exif: Any) -> bool:
    """Return whether EXIF says Adobe RGB: in its own way, or by that of DCF (interoperability index R03)."""
    details = exif.get_ifd(_EXIF_IFD)
    if details.get(_COLOUR_SPACE) == 2:
        return True
    return details.get(_COLOUR_SPACE) == 65535 and exif.get_ifd(_INTEROP_IFD).get(1) == "R03"


def _by_kind(still: Still) -> Still:
    """Add what only files of this kind say."""
    from PIL import ImagePalette

    image = still.image
    if still.suffix == "avif":
        codes, still = nclx(still.data), replace(still, crop=cropped(still.data, *image.size))
        if codes and still.profile is None:
            return replace(still, colour=colour_of(*codes))
    if still.suffix == "jpg":
        return replace(still, pages=getattr(image, "n_frames", 1))
    if still.suffix != "tif":
        return still
    tags = image.tag_v2
    if tags.get(_NEW_SUBFILE, 0) & 1 or _DNG_VERSION in tags:
        raise MediaError("its first picture is a preview, as in raw photographs: develop it to PNG or JPEG")
    depth = max(tags.get(_BITS, (8,)))
    forms = set(tags.get(_SAMPLE_FORMAT, ()))
    signed = 2 in forms
    if image.mode == "F" or depth > 16 or signed or 3 in forms:
        raise MediaError(
            f"is a TIFF of {depth}-bit{' signed' * signed} samples whose range nothing says: 8 or 16 bits "
            "without sign are accepted"
        )
    if tags.get(_COMPRESSION) == _WEBP:
        raise MediaError("is a TIFF compressed as WebP, which is not read: save it as PNG")
    if has_palette_of_bytes(image):
        image.palette = ImagePalette.raw("RGB;L", bytes(tags[_PALETTE]))
    planes = depth == 16 and tags.get(_PLANAR) == 2
    return replace(still, depth=depth, pages=getattr(image, "n_frames", 1), deep_planes=planes)


def has_palette_of_bytes(image: Any) -> bool:
    """Return whether the palette of a TIFF, of 16 bits, uses 8 alone by mistake, as libtiff takes it."""
    return image.format == "TIFF" and image.mode == "P" and max(image.tag_v2.get(_PALETTE, (256,))) < 256


def _heif(data: bytes, limits: MediaLimits) -> Still:
    """Return the primary picture of a HEIF file with its profile, or the colours that it states."""
    found = read_heif(data, limits)
    still = Still("heic", found.image, data, depth=found.depth, codes=found.codes, pages=found.pages)
    still = _profiled(still, found.profile)
    if found.colour and still.profile is None:
        return replace(still, colour=colour_of(*found.colour))
    return still
