"""Choose which stream of a file is the film."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

from core.progress import counted
from data.media.formats import MediaError


class Choice(NamedTuple):
    """The chosen stream.  reason: why it was chosen among several; "" where it is the only one."""

    stream: Any
    reason: str


def choose_stream(container: Any, most: int) -> Choice:
    """Return the film of a file: of the video streams that can be decoded and are no attached picture,

    first those of several frames, then the largest picture, then the most frames, then the one that the file
    calls its default, then the first. MediaError if there is none.
    most: packets to count at most, where the header does not say how many frames a stream has.
    """
    videos = list(container.streams.video)
    if not videos:
        raise MediaError("has no video stream")
    films = [stream for stream in videos if not _is_attached(stream)]
    usable = [stream for stream in films if stream.codec_context is not None]
    if not films:
        raise MediaError("has no video stream but attached pictures")
    if not usable:
        raise MediaError("no decoder for its video stream")
    if len(usable) == 1:
        others = len(videos) - 1
        return Choice(usable[0], f"the only film beside {counted(others, 'picture')}" if others else "")
    frames = _frames(container, usable, most)
    ranked = sorted(usable, key=lambda stream: _rank(stream, frames), reverse=True)
    best, second = ranked[:2]
    equal = _rank(best, frames)[:3] == _rank(second, frames)[:3]
    which = "the first of equal films" if equal else "the largest film"
    place = videos.index(best)
    return Choice(best, f"stream {place} of {len(videos)}: {which}")


def _rank(stream: Any, frames: Counter[int]) -> tuple[bool, int, int, bool, int]:
    from av.stream import Disposition

    count, context = frames[stream.index], stream.codec_context
    default = bool(stream.disposition & Disposition.default)
    return count > 1, context.width * context.height, count, default, -stream.index


def _is_attached(stream: Any) -> bool:
    """Return whether a stream is a cover or a preview, which players do not show as the film."""
    from av.stream import Disposition

    kinds = Disposition.attached_pic | Disposition.timed_thumbnails
    return bool(stream.disposition & kinds)


def _frames(container: Any, streams: list[Any], most: int) -> Counter[int]:
    """Return the number of frames of each stream, by its place in the file.

    They are counted if a header does not say them.
    """
    if all(stream.frames for stream in streams):
        return Counter({stream.index: stream.frames for stream in streams})
    frames: Counter[int] = Counter()
    for packet in container.demux(streams):
        frames[packet.stream_index] += packet.size > 0
        if frames[packet.stream_index] > most:
            raise MediaError(f"has more than {most} frames, the limit")
    container.seek(0)
    return frames
