"""A sample of a raw dataset, brought to its bucket, and the part of the dataset it belongs to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from core.errors import StorageError, UserError, WorkError
from core.permutations import scrambled
from data.dataset.schema import FOUND
from data.media.colour import RULE, UNTAGGED_RULE, ColourMode
from data.media.film.geometry import MIRRORED
from data.media.film.interlacing import Fields
from data.media.film.measuring import VARIABLE
from data.media.formats import VIDEO_FORMATS, Media, MediaError, MediaLimits, media_member, suffix_of
from data.media.images import decode_media, probe
from data.media.media_rules import ANEW, difference, may_differ, version_needed
from data.order.buckets import (
    Bucket,
    BucketConfig,
    clip_start,
)

if TYPE_CHECKING:
    from data.dataset.index import Dataset


COLOURED = {"colour", "profile"}  # properties for which pixels are converted
_READ_SINCE = ("stream", "pixel_aspect", "cropping", "order", "colour", "profile", "matrix", "depth")
ON_SCREEN = "what is on screen at each time"  # before: the nearest by number times the mean rate


def read_pixels(
    dataset: Dataset,
    row: int,
    bucket: Bucket,
    clips: BucketConfig,
    limits: MediaLimits,
    *,
    where: float = 0.5,
    flip: bool = False,
) -> np.ndarray:
    """Read a sample brought to its bucket: uint8 (T, H, W, 3). MediaError if it cannot be read or decoded.

    where: in [0, 1], which of a video's possible clips; 0.5 is the one in the middle. Pictures are cropped
    in the centre.
    """
    data = sample_media(dataset, row, by_time=bool(clips.fps))
    media = dataset.media[row : row + 1]
    pixels = pixels_of(data, media, bucket, clips, limits, where=where, colour=dataset.colour)
    return np.ascontiguousarray(pixels[:, :, ::-1]) if flip else pixels


def pixels_of(
    data: bytes,
    media: np.ndarray,
    bucket: Bucket,
    clips: BucketConfig,
    limits: MediaLimits,
    *,
    where: float = 0.5,
    colour: ColourMode = "convert",
) -> np.ndarray:
    """Do what `read_pixels` does with the bytes of a file.  media: (1,) MEDIA_DTYPE, its row."""
    start = clip_start(media, bucket.frames, clips, where)
    frames, size = (start, bucket.frames, clips.stride), (bucket.height, bucket.width)
    fields = Fields(int(media["fields"][0])) if clips.deinterlace == "auto" else Fields.WHOLE
    return decode_media(data, limits, frames, clips.fps or None, size, fields, colour)


def decoding_identity(dataset: Dataset, clips: BucketConfig) -> dict[str, Any]:
    """Return what pixels depend on besides size and clip, for fingerprints; {} where nothing has changed."""
    identity: dict[str, Any] = {}
    found = dataset.manifest.extra.get(FOUND, {})
    if COLOURED & found.keys():
        identity["colour"] = RULE if dataset.colour == "convert" else dataset.colour
    if "matrix" in found:
        identity["untagged"] = UNTAGGED_RULE
    if dataset.media_rules:
        identity["media_rules"] = version_needed(found.get(ANEW, {}))
    if clips.fps:
        identity["frames_at_fps"] = ON_SCREEN
    if clips.deinterlace != "off":
        identity["deinterlace"] = clips.deinterlace
    return identity


def _require_unchanged(dataset: Dataset, row: int, data: bytes, by_time: bool) -> None:
    """Raise UserError if the media rules would change how a sample of an older dataset is read."""
    media = probe(data, colour=dataset.colour)
    what = difference(media.found, dataset.media_rules)
    if not dataset.media_rules and (said := changed(media, by_time, suffix_of(data) in VIDEO_FORMATS)):
        what = f"{said}, which was not read when the dataset was made"
    if what:
        raise UserError(
            f"{dataset.place}: sample {row}: {what}; "
            f"`longtake inspect {dataset.place} action=reindex` measures all samples anew, without packing"
        )


def changed(media: Media, by_time: bool, is_film: bool = True) -> str:
    """Return in words what of a file is read since media rules have a version.

    "" if nothing is read differently.

    by_time: frames are taken by their times.  is_film: a video file, not a picture.
    """
    named = [name for name in _READ_SINCE if name in media.found]
    if is_film and "alpha" in media.found:
        named.append("alpha")
    if media.found.get("kind") in ("HEIF", "AVIF"):  # packed as films of one of their tiles
        named.append("kind")
    if media.found.get("orientation") in MIRRORED:
        named.append("orientation")
    if by_time and media.found.get("frame_rate") == VARIABLE:
        named.append("frame_rate")
    return ", ".join(f"its {name} is {media.found[name]!r}" for name in named)


def sample_media(dataset: Dataset, row: int, *, by_time: bool = False) -> bytes:
    """Read the bytes of a sample's image or video.

    MediaError if they cannot be read, or there is not exactly one.

    UserError if media rules would change how it is read, and the dataset was made by earlier ones.
    by_time: frames are to be taken by their times.
    """
    try:
        data = media_member(dataset.read(row))
    except StorageError:
        raise
    except WorkError as error:  # damage to the tar hides this sample; the others lie where the index says
        raise MediaError(str(error).removeprefix(f"{dataset.folder}/")) from None
    if may_differ(data, dataset.media_rules):
        _require_unchanged(dataset, row, data, by_time)
    return data


def in_part(ids: np.ndarray, part: str, held_out: float) -> np.ndarray:
    """Return whether each sample belongs to `part`, a pure function of its id: (samples,) bool.

    The hash is the finaliser of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014).
    """
    if part == "all":
        return np.ones(len(ids), bool)
    z = (ids.astype(np.uint64) + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
    is_held_out = scrambled(z) / 2.0**64 < held_out
    return is_held_out if part == "held_out" else ~is_held_out
