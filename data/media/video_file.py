"""An open video file: its frames and their times, known before decoding, and its decoded frames by number."""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

from core.progress import counted
from data.media.film.cropping import UNALIGNED, container_crop
from data.media.film.decoders import decoder_of, without_profiles
from data.media.film.ebml import missing_bytes
from data.media.film.frame_table import listed_packets, read_table, with_listed_keys
from data.media.film.geometry import Geometry, Turn, pixel_aspect
from data.media.film.iso_boxes import require_one_whole_film
from data.media.film.looks import Tags
from data.media.film.mpeg4 import MOST_SKIPPED, is_skipped, time_bits
from data.media.film.streams import choose_stream
from data.media.film.times import Seen, Times, measure
from data.media.formats import (
    IMAGE_FORMATS,
    VIDEO_FORMATS,
    MediaError,
    MediaLimits,
    suffix_of,
    truncated,
)


class Video:
    """An open file: knows how many frames it has before any is decoded, yields decoded ones numbered.

    by_table: believe the header about how many frames there are, where it lists them, instead of reading all
    packets.  opened: opens the same file once more.
    """

    def __init__(
        self, opened: Callable[[], Any], data: bytes, limits: MediaLimits, by_table: bool = False
    ) -> None:
        self.container, self.limits, self._data, self._opened = opened(), limits, data, opened
        container = self.container
        self.stream, self.choice = choose_stream(container, limits.frames)
        context = self.context = decoder_of(self.stream)
        # What the demuxer tells once only, with the first packet that it reads: the colours of a palette.
        self.has_palette = context.pix_fmt == "pal8"
        self.reads_once = self.has_palette
        self._tags = Tags.of(self.stream)  # before frames are decoded, whose codec overwrites them
        context.thread_count = 1  # samples, not frames, are decoded at the same time
        self._reordered = False  # known to leave the decoder in another order than that of their times
        context.flags |= UNALIGNED
        context.copy_opaque = True  # a frame tells which packet it is of
        limits.check_picture(context.width, context.height)
        self.suffix = suffix_of(data)
        if self.suffix == "mkv" and (missing := missing_bytes(memoryview(data))):
            raise truncated(missing)
        if self.suffix == "mp4":
            require_one_whole_film(memoryview(data))
        crop = container_crop(data, self.suffix, self.stream.index)
        self.geometry = Geometry(pixel_aspect(self.stream), crop)
        limits.check_picture(*self.geometry.shown(context.width, context.height, Turn())[::-1])
        self.coded_size = context.width, context.height
        if len(self.stream.index_entries) > limits.frames:
            raise MediaError(f"has more than {limits.frames} frames, the limit")
        listed = by_table and context.name != "mpeg4"  # of which not every packet is a frame
        self.table = read_table(self.stream, data) if listed else None
        self.frames = self.table.frames if self.table else sum(packet.shown for packet in self.packets)
        if self.frames == 0:
            raise MediaError("video stream without frames")
        seconds = self.table.seconds if self.table else float(self.times.seconds)
        if seconds > limits.seconds:
            raise MediaError(f"lasts {seconds:.1f} s, the limit is {limits.seconds} s")

    @cached_property
    def packets(self) -> list[Seen]:
        """All packets of the file, in order of decoding."""
        seen = self._all_packets()
        times = [packet.time for packet in seen if packet.time is not None]
        begins = self.stream.start_time
        if self.suffix == "mkv" and begins is not None and min(times, default=begins) > begins:
            self.reads_once = True  # the first have times below 0, which are no places to seek to
            seen = self._all_packets()
        return seen

    def _all_packets(self) -> list[Seen]:
        seen: list[Seen] = []
        skips = False
        for packet in self.packets_from(None):
            skips = skips or self._is_skipped(packet)
            shown, duration = not packet.is_discard, packet.duration or 0
            place = packet.size, packet.pos
            seen.append(Seen(packet.pts, packet.dts, packet.is_keyframe, shown, duration, *place))
            if len(seen) > self.limits.frames:
                raise MediaError(f"has more than {self.limits.frames} frames, the limit")
        if len(seen) < (expected := listed_packets(self.stream, self._data)):
            raise MediaError(f"truncated video: {len(seen)} of {counted(expected, 'frame')} are there")
        if self.suffix == "avi":
            seen = with_listed_keys(seen, self.stream)
        return self._decoded(seen) if skips else seen

    def _is_skipped(self, packet: Any) -> bool:
        """Return whether a packet of MPEG-4 holds no picture."""
        if self.context.name != "mpeg4" or packet.size > MOST_SKIPPED:
            return False
        return self._time_bits is not None and is_skipped(bytes(packet), self._time_bits)

    @cached_property
    def _time_bits(self) -> int | None:
        return time_bits(self.context.extradata or b"")

    def _decoded(self, seen: list[Seen]) -> list[Seen]:
        """Return the packets of MPEG-4.

        Not shown are those that only say that the frame before stays (N-VOP).

        These can be told from what packed bitstreams fill up with by decoding only.
        """
        context, shown, times = self.context, set(), []
        for place, packet in enumerate(itertools.chain(self.packets_from(None), [None])):
            if packet is not None:
                packet.opaque = place
            for frame in context.decode(packet):
                self.check(frame)
                shown.add(frame.opaque)
                times.append(frame.pts)
        self._reordered = times != sorted(times, key=lambda time: time or 0)
        # A larger packet that gives no frame is damage, which is found by counting.
        return [
            packet._replace(shown=packet.shown and (place in shown or packet.size > MOST_SKIPPED))
            for place, packet in enumerate(seen)
        ]

    @property
    def hidden(self) -> int:
        """Packets that an edit list passes over, or that hold no picture."""
        return len(self.packets) - self.frames

    @cached_property
    def times(self) -> Times:
        """Times at which the frames are shown."""
        return measure(self.packets, self.stream, by_chunk=self.suffix == "avi")

    @cached_property
    def numbers(self) -> dict[int, int] | None:
        """Number of the frame shown at a time; None where times do not tell the order of display.

        They do not where some are missing or equal, and where pictures that the codec reorders have the times
        of their decoding, as in files copied from AVI and raw streams.
        """
        times = [packet.time for packet in self.packets if packet.time is not None]
        shown = sorted(packet.time for packet in self.packets if packet.shown and packet.time is not None)
        distinct = len(self.packets) == len(times) == len(set(times))
        if not distinct or self.ambiguous(times):
            return None
        return {time: number for number, time in enumerate(shown)}

    def ambiguous(self, times: list[int]) -> bool:
        """Return whether times of display, in order of decoding, may be times of decoding in truth.

        So they are in copies of AVI files, perhaps all later by as much. They also ascend where an encoder
        might have reordered and did not; only decoding tells that apart (`reordered`).
        """
        ascending = all(before < after for before, after in itertools.pairwise(times))
        reorders = bool(self.context.has_b_frames) and len(times) > 1
        return self._reordered or (reorders and ascending)

    @cached_property
    def reordered(self) -> bool:
        """Return whether frames leave the decoder in another order than by their times; may decode all."""
        if self.numbers is not None:
            return False
        times = [frame.pts for _, frame in self.pictures()]
        return None in times or any(before >= after for before, after in itertools.pairwise(times))

    @cached_property
    def display_times(self) -> list[int]:
        """Return when the picture of each packet is shown, in order of decoding.

        The time of a hidden picture may be approximate.

        Where times do not tell the order of display, the whole film is decoded to find it.
        """
        if self.numbers is not None:
            return [packet.time or 0 for packet in self.packets]
        context, order = self.context, []
        for place, packet in enumerate(itertools.chain(self.packets_from(None), [None])):
            if packet is not None:
                packet.opaque = place
            for frame in context.decode(packet):
                self.check(frame)
                order.append(frame.opaque)
        if len(order) != len(set(order)) or len(order) != self.frames:
            raise MediaError("cannot be cut: its packets and frames do not correspond")
        ticks = sorted(packet.time or 0 for packet in self.packets if packet.shown)
        times = dict(zip(order, ticks, strict=True))
        return [times.get(place, packet.time or 0) for place, packet in enumerate(self.packets)]

    def packets_from(self, time: int | None) -> Iterator[Any]:
        """Yield packets from where the demuxer lands for a time of decoding; None: from the first."""
        if self.reads_once:
            self.container = self._opened()
        elif time is None:
            self.container.seek(0)
        else:
            self.container.seek(time, stream=self.stream)
        self.context.flush_buffers()  # those of the file's own decoders are flushed by seeking
        stream = self.container.streams[self.stream.index]
        return without_profiles(packet for packet in self.container.demux(stream) if packet.size)

    def pictures(self) -> Iterator[tuple[int, Any]]:
        """Yield (number, decoded frame) of all frames, in the order in which the decoder shows them."""
        numbers, count = self.numbers, 0
        self.context.skip_frame = "DEFAULT"
        for packet in itertools.chain(self.packets_from(None), [None]):  # None: the decoder's last frames
            for frame in self.context.decode(packet):
                self.check(frame)
                yield count if numbers is None else numbers.get(frame.pts, -1), frame
                count += 1

    def check(self, frame: Any) -> None:
        """Raise MediaError if a frame is larger than the limits allow.

        Colours that its codec does not state are completed by what the container says.
        """
        self.limits.check_picture(frame.width, frame.height)
        self._tags.complete(frame)


@contextlib.contextmanager
def opened_video(data: bytes, limits: MediaLimits, by_table: bool = False) -> Iterator[Video]:
    """Open the bytes of a video file; every error of the decoder until it closes becomes a MediaError."""
    import av

    limits.check_bytes(len(data))
    suffix = suffix_of(data)
    if suffix in IMAGE_FORMATS:
        raise MediaError("is an image, not a video")
    try:
        with contextlib.ExitStack() as stack:

            def opened() -> Any:
                file, format = io.BytesIO(data), VIDEO_FORMATS[suffix]
                return stack.enter_context(av.open(file, format=format, metadata_errors="replace"))

            yield Video(opened, data, limits, by_table)
    except av.FFmpegError as error:
        raise MediaError(f"damaged video: {error.strerror}") from None
