"""Measure what a picture, animated or not, shows and says of itself, for `probe` and `check`."""

from __future__ import annotations

from fractions import Fraction

from core.progress import counted
from data.media.colour import ColourMode
from data.media.film.geometry import Crop
from data.media.film.iso_boxes import boxes
from data.media.film.measuring import VARIABLE
from data.media.formats import IMAGE_FORMATS, Media, MediaError, MediaLimits
from data.media.media_rules import read_anew
from data.media.stills.animation import animation_frames
from data.media.stills.canvases import has_free_canvas, has_mixed_pictures
from data.media.stills.deep_tiff import is_deep_mode, is_tiled
from data.media.stills.density import declared_shape
from data.media.stills.jpeg_parts import behind_jpeg
from data.media.stills.png_chunks import has_scaled_grey
from data.media.stills.rendering import deep_codes, read_still, require_convertible
from data.media.stills.still import Still, has_palette_of_bytes, opened_still
from data.media.stills.wholeness import require_whole

DARK = 4095  # the largest code of 12 bits; pictures of 16 bits that do not exceed it are near black


def probe_still(data: bytes, limits: MediaLimits, mode: ColourMode, *, whole: bool) -> Media:
    """Return size, frames and rate as displayed; MediaError if it cannot be used.

    whole: decode all of it, else only animations, whose pictures have to be counted, and 16 bits.
    """
    with opened_still(data, limits) as still:
        require_convertible(still, mode)
        if still.frames > 1:
            return _film(still, limits, mode)
        width, height = still.size
        found = still_found(still, mode)
        if whole:
            pixels = read_still(still, mode)
            require_whole(still, pixels)
            height, width, _ = pixels.shape
        return Media(width, height, 1, 0.0, found=found)


def _film(still: Still, limits: MediaLimits, mode: ColourMode) -> Media:
    milliseconds, count, sizes, delays = Fraction(0), 0, set(), set()
    for delay, picture in animation_frames(still, limits, mode):
        milliseconds += Fraction(delay).limit_denominator(1000)
        count += 1
        sizes.add(picture.shape)
        delays.add(delay)
        if milliseconds > 1000 * limits.seconds:
            raise MediaError(f"lasts more than {limits.seconds} s, the limit")
    if len(sizes) != 1:
        raise MediaError(f"damaged image: {counted(count, 'frame')}, in {counted(len(sizes), 'size')}")
    duration = milliseconds / 1000
    rate = count / duration
    found = still_found(still, mode) | {
        "kind": f"animated {IMAGE_FORMATS[still.suffix]}",
        "frame_rate": VARIABLE if len(delays) > 1 else str(rate),
    }
    if any(delay != int(delay) for delay in delays):
        found |= read_anew("an animated AVIF with parts of milliseconds", 3)
    return Media(*still.size, count, float(rate), rate, duration, found=found)


def still_found(still: Still, mode: ColourMode) -> dict[str, str]:
    """Describe in words what a picture says of itself, for `data.media.formats.Media.found`."""
    kept = ", kept" * (mode == "keep")
    found = {}
    if still.suffix not in ("jpg", "png", "webp"):
        found["kind"] = IMAGE_FORMATS[still.suffix]
    if still.profile is not None and still.profile.transform is not None:
        found["profile"] = f"{still.profile.name}{kept}"
    elif still.profile is None and not still.colour.is_plain:
        found["colour"] = f"{still.colour}{kept}"
    elif still.profile is None and still.image.mode == "CMYK":
        found["profile"] = "none, of CMYK"
    if still.has_alpha:
        found["alpha"] = "transparent"
    if shape := declared_shape(still.suffix, still.image, still.data, still.density):
        found["pixel_shape"] = shape
    if still.crop != Crop():
        found["cropping"] = "left {} top {} right {} bottom {}".format(*still.crop)
    if still.pages > 1:
        found["pages"] = f"1 of {still.pages}"
    if behind := _behind(still):
        found["behind"] = behind
    if still.depth > 8 and (codes := deep_codes(still)) is not None:
        found["depth"] = f"{still.depth} bits"
        if still.depth == 16 and codes[..., : codes.shape[-1] - (codes.shape[-1] % 2 == 0)].max() <= DARK:
            found["depth"] = "16 bits, of which no more than 12 are used: near black"
    if still.ignored:
        found["ignored"] = ", ".join(still.ignored)
    return found | _read_anew(still, mode)


def _behind(still: Still) -> str:
    """Say what the file of a photograph holds beside it, as of those that move; "" for nothing."""
    if still.suffix == "jpg":
        return behind_jpeg(still.data, still.jpeg.end, still.pages)
    moves = still.suffix == "heic" and any(kind == b"mpvd" for kind, _ in boxes(memoryview(still.data)))
    return "a film, not used" if moves else ""


def _read_anew(still: Still, mode: ColourMode) -> dict[str, str]:
    """Name the kind of picture that a version of the media rules reads otherwise than the one before."""
    if still.suffix == "tif" and still.depth == 12:
        return read_anew("a TIFF of 12 bits", 2)
    if (
        still.suffix == "tif"
        and still.depth == 16
        and is_tiled(still.image.tag_v2)
        and is_deep_mode(still.image.mode)
    ):
        return read_anew("a TIFF of 16 bits in tiles", 3)
    if still.deep_planes and len(still.image.getbands()) > 1:
        return read_anew("a TIFF of 16 bits in planes", 2)
    converted = mode == "convert" and still.profile is not None and still.profile.transform is not None
    if still.suffix == "bmp" and converted:
        return read_anew("a BMP with an ICC profile", 2)
    if "impossible gAMA" in still.ignored:
        return read_anew("a PNG of an impossible gAMA", 2)
    if still.suffix == "png" and still.frames > 1 and has_mixed_pictures(still.data):
        return read_anew("an animated PNG of half clear pictures", 4)
    if still.suffix == "png" and still.has_alpha and has_scaled_grey(still.data):
        return read_anew("a PNG of 2 or 4 bits of which one grey is clear", 4)
    if still.suffix == "webp" and has_free_canvas(still.data):
        return read_anew("an animated WebP that leaves some of its canvas free", 4)
    if still.suffix == "tif" and has_palette_of_bytes(still.image):
        return read_anew("a TIFF with a palette of 8 bits", 4)
    if still.crop != Crop():
        return read_anew("an AVIF with a clean aperture", 2)
    if still.suffix == "png" and still.image.info.get("default_image") and still.frames == 1:
        return read_anew("a PNG of one animated picture beside another", 2)
    return {}
