"""The table of a video file: how many frames it shows, and where its keyframes are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    pass


class Start(NamedTuple):
    """A keyframe. number: frames shown before it.  decoded_at: its time of decoding, in stream units."""

    number: int
    decoded_at: int


class FrameTable(NamedTuple):
    """How many frames a file shows, and its keyframes in order.

    delay: of showing after decoding; MP4 is searched by times of decoding plus this.
    """

    frames: int
    starts: tuple[Start, ...]
    delay: int


def listed_packets(stream: Any) -> int:
    """How many packets the header of the file promises; 0 if it does not say."""
    entries: int = len(stream.index_entries)
    if entries and "mp4" in stream.container.format.name.split(","):
        return min(entries, stream.frames)  # fewer than it counts where an edit list shows a part of them
    return int(stream.frames)


def read_table(stream: Any, size: int) -> FrameTable | None:
    """The table of a file of `size` bytes; None if it does not list all frames, or some are cut off."""
    entries = stream.index_entries
    if not 0 < len(entries) == listed_packets(stream):
        return None
    frames, starts = 0, []
    for entry in entries:
        if entry.pos + entry.size > size or not entry.size:
            return None
        if entry.is_keyframe:
            starts.append(Start(frames, entry.timestamp))
        frames += not entry.is_discard
    return FrameTable(frames, tuple(starts), (stream.start_time or 0) - entries[0].timestamp)
