"""Chosen frames of a video by decoding no more than they need.

A frame is known by its number in order of display. The table of an MP4 lists the keyframes, but not when each
frame is shown; the packets from a keyframe to the frames wanted say that. What lies before a keyframe in the
file is shown before it (ISO/IEC 14496-12, sync samples), so its number is the number of frames before it.
Files without such a table, and groups that are open (pictures that lie behind their keyframe are shown before
it), are numbered by the packets of the whole file. `Video.pictures`, which decodes from the first frame on,
is the plain twin.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from data.media.clips import Packet, cut_points

if TYPE_CHECKING:
    from data.media.video_file import Video


class Run(NamedTuple):
    """Packets in order of decoding, and the number of the frame that is shown at a time."""

    packets: list[Any]
    numbers: dict[int, int]


def chosen_frames(video: Video, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """(number, decoded frame) of the frames `wanted`, ascending numbers; fewer if some cannot be found so.

    A picture that nobody wants and no other picture refers to is not decoded (H.264, whose packets say so).
    """
    run = _run_by_table(video, wanted[0], wanted[-1]) or _run_by_packets(video, wanted)
    if run is None:
        return
    still = set(wanted)
    times = {time for time, number in run.numbers.items() if number in still}
    context = video.stream.codec_context
    may_skip = context.name == "h264"
    last = max((place for place, packet in enumerate(run.packets) if packet.pts in times), default=-1)
    for packet in [*run.packets[: last + 1], None]:  # None: what the decoder keeps for reordering
        if may_skip and packet is not None:
            context.skip_frame = "DEFAULT" if packet.pts in times else "NONREF"
        for frame in context.decode(packet):
            video.check(frame)
            number = run.numbers.get(frame.pts, -1)
            if number in still:
                still.remove(number)
                yield number, frame


def _run_by_table(video: Video, first: int, last: int) -> Run | None:
    """The packets from the keyframe at or before frame `first` on; None if the table does not say enough."""
    table = video.table
    place = bisect.bisect_right(table.starts, first, key=lambda start: start.number) - 1 if table else -1
    if table is None or place < 0:
        return None
    start = table.starts[place]
    packets: list[Any] = []
    times: list[int] = []  # of display, ascending, of the frames that are shown
    for packet in video.packets_from(start.decoded_at + table.delay):
        landed = packets or packet.dts == start.decoded_at
        timed = packet.pts is not None and packet.dts is not None and packet.pts >= packet.dts
        if not (landed and timed) or (packets and packet.pts <= packets[0].pts):
            return None
        packets.append(packet)
        if not packet.is_discard:
            bisect.insort(times, packet.pts)
        if start.number + bisect.bisect_left(times, packet.dts) > last:  # what follows is shown later
            break
    if len(set(times)) < len(times):
        return None
    return Run(packets, {time: start.number + rank for rank, time in enumerate(times)})


def _run_by_packets(video: Video, wanted: Sequence[int]) -> Run | None:
    """The same by the times of all packets; None if times are missing or double."""
    if (numbers := video.numbers) is None:
        return None
    decoded_at = {packet.time: packet.decoded_at for packet in video.packets}
    _, starts = cut_points([Packet(time, 0, key) for time, _, key, _ in video.packets if time is not None])
    chosen = set(wanted)
    still = {time for time, number in numbers.items() if number in chosen}
    place = bisect.bisect_right(starts, min(still)) - 1
    if place < 0:
        return None
    start = starts[place]
    at = decoded_at[start]
    packets: list[Any] = []
    for packet in video.packets_from(start if at is None else at):
        if not packets and packet.pts > start:  # the demuxer landed behind it
            return None
        packets.append(packet)
        still.discard(packet.pts)
        if not still:
            break
    return Run(packets, numbers)
