"""An open video file: how many frames it has, known before decoding, and its decoded frames by number."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

from data.media.formats import (
    IMAGE_FORMATS,
    VIDEO_FORMATS,
    MediaError,
    MediaLimits,
    suffix_of,
)
from data.media.frame_table import listed_packets, read_table


class Seen(NamedTuple):
    """What is known of a packet without decoding it: times of display and decoding, if the file says them."""

    time: int | None
    decoded_at: int | None
    key: bool
    shown: bool


class Video:
    """An open file: knows how many frames it has before any is decoded, yields decoded ones numbered.

    by_table: believe the header about how many frames there are, where it lists them, instead of reading all
    packets.
    """

    def __init__(self, container: Any, size: int, limits: MediaLimits, by_table: bool = False) -> None:
        if not container.streams.video:
            raise MediaError("has no video stream")
        self.container, self.limits = container, limits
        self.stream = container.streams.video[0]
        context = self.stream.codec_context
        if context is None:
            raise MediaError("no decoder for its video stream")
        context.thread_count = 1  # samples, not frames, are decoded at the same time
        limits.check_picture(context.width, context.height)
        self.pixels = context.width * context.height
        if len(self.stream.index_entries) > limits.frames:
            raise MediaError(f"has more than {limits.frames} frames, the limit")
        self.table = read_table(self.stream, size) if by_table else None
        self.frames = self.table.frames if self.table else sum(packet.shown for packet in self.packets)
        self.fps = float(self.stream.average_rate or 0)
        if self.frames == 0 or (self.fps <= 0 and self.frames > 1):  # a single frame needs no rate
            raise MediaError(
                f"video stream without frames or rate ({self.frames} frames at {self.fps} a second)"
            )
        if self.fps > 0 and self.frames / self.fps > limits.seconds:
            raise MediaError(f"lasts {self.frames / self.fps:.1f} s, the limit is {limits.seconds} s")

    @cached_property
    def packets(self) -> list[Seen]:
        """All packets of the file, in order of decoding."""
        seen = []
        for packet in self.packets_from(None):
            seen.append(Seen(packet.pts, packet.dts, packet.is_keyframe, not packet.is_discard))
            if len(seen) > self.limits.frames:
                raise MediaError(f"has more than {self.limits.frames} frames, the limit")
        if len(seen) < (expected := listed_packets(self.stream)):
            raise MediaError(f"truncated video: {len(seen)} of {expected} frames are there")
        return seen

    @cached_property
    def numbers(self) -> dict[int, int] | None:
        """Number of the frame shown at a time; None if times are missing or double (damaged, or AVI)."""
        times = [packet.time for packet in self.packets if packet.time is not None]
        shown = sorted(packet.time for packet in self.packets if packet.shown and packet.time is not None)
        if not len(self.packets) == len(times) == len(set(times)):
            return None
        return {time: number for number, time in enumerate(shown)}

    def packets_from(self, time: int | None) -> Iterator[Any]:
        """Packets from where the demuxer lands that is asked for a time of decoding; None: from the first."""
        if time is None:
            self.container.seek(0)
        else:
            self.container.seek(time, stream=self.stream)
        return (packet for packet in self.container.demux(self.stream) if packet.size)

    def pictures(self) -> Iterator[tuple[int, Any]]:
        """(number, decoded frame) of all frames, in order of display."""
        numbers, count = self.numbers, 0
        self.stream.codec_context.skip_frame = "DEFAULT"
        for packet in itertools.chain(self.packets_from(None), [None]):  # None: the decoder's last frames
            for frame in self.stream.codec_context.decode(packet):
                self.check(frame)
                yield count if numbers is None else numbers.get(frame.pts, -1), frame
                count += 1

    def check(self, frame: Any) -> None:
        """MediaError if a frame is larger than the limits allow."""
        self.limits.check_picture(frame.width, frame.height)


@contextlib.contextmanager
def opened_video(data: bytes, limits: MediaLimits, by_table: bool = False) -> Iterator[Video]:
    """Open the bytes of a video file; whatever the decoder dislikes until it closes is a MediaError."""
    import av

    limits.check_bytes(len(data))
    suffix = suffix_of(data)
    if suffix in IMAGE_FORMATS:
        raise MediaError("is an image, not a video")
    try:
        with av.open(io.BytesIO(data), format=VIDEO_FORMATS[suffix], metadata_errors="replace") as container:
            yield Video(container, len(data), limits, by_table)
    except av.FFmpegError as error:
        raise MediaError(f"damaged video: {error.strerror}") from None
