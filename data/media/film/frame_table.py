"""The table of a video file: how many frames it shows, and where its keyframes are."""

from __future__ import annotations

from typing import Any, NamedTuple

from data.media.film.times import Seen


class Start(NamedTuple):
    """A keyframe. number: frames shown before it. decoded_at: its time of decoding, in stream units."""

    number: int
    decoded_at: int


class FrameTable(NamedTuple):
    """The number of frames that a file shows, and its keyframes in order.

    delay: of showing after decoding; MP4 is searched by times of decoding plus this.
    seconds: about how long the packets last.
    """

    frames: int
    starts: tuple[Start, ...]
    delay: int
    seconds: float


def listed_packets(stream: Any, data: bytes) -> int:
    """Return how many packets the header of the file `data` promises; 0 if it does not say."""
    entries, kinds = len(stream.index_entries), stream.container.format.name.split(",")
    if entries and "mp4" in kinds:
        return min(entries, stream.frames)  # fewer than it counts where an edit list shows a part of them
    # A chunk of AVI without bytes says that the frame before it stays; its header counts it, its index does
    # not. The index is that of the file only where the file is as long as it says.
    if "avi" in kinds and len(data) >= 8 + int.from_bytes(data[4:8], "little"):
        return min(entries, stream.frames)
    return int(stream.frames)


def with_listed_keys(packets: list[Seen], stream: Any) -> list[Seen]:
    """Return the packets of an AVI, of which only those are keyframes that its index calls so too.

    FFmpeg's parser of H.263 takes every picture for one.
    """
    listed = stream.index_entries
    if len(listed) != len(packets):
        return packets
    return [
        packet._replace(key=packet.key and entry.is_keyframe)
        for packet, entry in zip(packets, listed, strict=True)
    ]


def read_table(stream: Any, data: bytes) -> FrameTable | None:
    """Read the table of the file `data`; None if it does not list all frames, or some are cut off."""
    entries = stream.index_entries
    if not 0 < len(entries) == listed_packets(stream, data):
        return None
    frames, starts = 0, []
    for entry in entries:
        if entry.pos + entry.size > len(data) or not entry.size:
            return None
        if entry.is_keyframe:
            starts.append(Start(frames, entry.timestamp))
        frames += not entry.is_discard
    delay = (stream.start_time or 0) - entries[0].timestamp
    span = float((entries[-1].timestamp - entries[0].timestamp) * stream.time_base)
    seconds = span * len(entries) / max(1, len(entries) - 1)  # the last packet lasts too
    return FrameTable(frames, tuple(starts), delay, seconds)
