"""Measure what a video file shows and says of itself, for `probe` and `check`."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from core.progress import counted
from data.media.colour import ColourMode
from data.media.film.cropping import crops_at_the_left
from data.media.film.geometry import SQUARE, Crop, turn_of
from data.media.film.interlacing import Fields, FieldWatch
from data.media.film.looks import film_found
from data.media.formats import DEFAULT_LIMITS, Media, MediaError, MediaLimits
from data.media.media_rules import read_anew
from data.media.scaling import displayed_size
from data.media.video_file import Video, opened_video

VARIABLE = "variable"  # as a frame rate


def probe_video(
    data: bytes, limits: MediaLimits = DEFAULT_LIMITS, fields: bool = False, colour: ColourMode = "convert"
) -> Media:
    """Return what a video shows; decodes one frame. MediaError if it cannot be used.

    fields: decode as many frames as it takes to see whether they are interlaced; else one flag tells.
    """
    watch, first = FieldWatch(), None
    with opened_video(data, limits) as video:
        for _, frame in video.pictures():
            if first is None:
                first, colours = _shown(video, frame), film_found(frame, colour)
            watch.look(frame)
            if not fields or watch.is_certain:
                break
        if first is None:
            raise MediaError("damaged video: no frame can be decoded")
        return _media(video, first, watch.fields, colours)


def check_video(data: bytes, limits: MediaLimits = DEFAULT_LIMITS, colour: ColourMode = "convert") -> Media:
    """Return the same after decoding every frame: a video that passes is whole."""
    watch = FieldWatch()
    with opened_video(data, limits) as video:
        decoded, last = 0, -1
        shown: dict[tuple[int, int, str], None] = {}
        colours: dict[str, str] = {}
        aspects: dict[Fraction, None] = {}
        for number, frame in video.pictures():
            if frame.is_corrupt:
                raise MediaError(f"damaged video: frame {number} of {video.frames}")
            if number <= last:
                raise MediaError(f"frame {number} leaves the decoder after frame {last}: its times are wrong")
            last = number
            colours |= film_found(frame, colour)  # each frame is converted by what it says itself
            if aspect := video.context.sample_aspect_ratio:
                aspects[aspect] = None
            if len(aspects) > 1:
                raise MediaError(f"its pixels change their shape: {', then '.join(map(_ratio, aspects))}")
            decoded += 1
            shown[_shown(video, frame)] = None
            watch.look(frame)
        if decoded != video.frames:
            raise MediaError(f"damaged video: {decoded} of {counted(video.frames, 'frame')}")
        if len(shown) > 1:
            raise MediaError(f"its frames change their size or turn: {', then '.join(map(_look, shown))}")
        return _media(video, shown.popitem()[0], watch.fields, colours)


def _look(shown: tuple[int, int, str]) -> str:
    height, width, turn = shown
    return f"{width}x{height} {turn}"


def _ratio(aspect: Fraction) -> str:
    return f"{aspect.numerator}:{aspect.denominator}"


def _shown(video: Video, frame: Any) -> tuple[int, int, str]:
    """Return (height, width, turn) of a frame as shown."""
    return *displayed_size(frame, video.geometry), turn_of(frame).name


def _media(video: Video, shown: tuple[int, int, str], fields: Fields, colours: dict[str, str]) -> Media:
    height, width, turn = shown
    times, geometry = video.times, video.geometry
    found = {
        "stream": video.choice,
        "orientation": "" if turn == "as stored" else turn,
        "pixel_aspect": "" if geometry.aspect == SQUARE else _ratio(geometry.aspect),
        "cropping": ""
        if geometry.crop == Crop()
        else "left {} top {} right {} bottom {}".format(*geometry.crop),
        "frame_rate": VARIABLE if times.variable else str(times.rate) if video.frames > 1 else "",
        "order": "of the decoder" if video.frames > 1 and video.reordered else "",
        "hidden": str(video.hidden) if video.hidden else "",
        "interlacing": fields.description,
        **colours,
        **_read_anew(video),
    }
    return Media(
        width,
        height,
        video.frames,
        float(times.rate),
        times.rate,
        times.seconds,
        int(fields),
        {name: value for name, value in found.items() if value},
    )


def _read_anew(video: Video) -> dict[str, str]:
    """Name the kind of film that a version of the media rules reads otherwise than the one before."""
    if video.has_palette:
        return read_anew("a film of a palette", 2)
    if video.reads_once:
        return read_anew("a Matroska film with times below 0", 2)
    if crops_at_the_left(video.context, lambda: video.packets_from(None)):
        return read_anew("a film that its codec cuts at the left", 4)
    return {}
