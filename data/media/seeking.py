"""Chosen frames of a video by decoding no more than they need.

A frame is known by its number in order of display. The table of an MP4 lists the keyframes, but not when each
frame is shown; the packets from a keyframe to the frames wanted say that. What lies before a keyframe in the
file is shown before it (ISO/IEC 14496-12, sync samples), so its number is the number of frames before it.
Files without such a table, and groups that are open (pictures that lie behind their keyframe are shown before
it), are numbered by the packets of the whole file. Where times do not tell the order of display, frames are
counted as they leave the decoder (`_by_count`). `Video.pictures`, which decodes from the first frame on, is
the plain twin.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from data.media.clips import Packet, cut_points

if TYPE_CHECKING:
    from data.media.video_file import Video


MOST_REORDERED = 16  # pictures that a codec shows before one that it decoded earlier (H.264, A.3.1)


class Run(NamedTuple):
    """Packets in order of decoding, and the number of the frame that is shown at a time.

    begins: about which frame the first packet is.
    """

    packets: list[Any]
    numbers: dict[int, int]
    begins: int


def chosen_frames(video: Video, wanted: Sequence[int]) -> Iterator[tuple[int, Any]]:
    """(number, decoded frame) of the frames `wanted`, ascending numbers; fewer if some cannot be found so.

    A picture that nobody wants and no other picture refers to is not decoded (H.264, whose packets say so).
    """
    run = _run_by_table(video, wanted[0], wanted[-1]) or _run_by_packets(video, wanted)
    if run is None or run.begins + 2 * MOST_REORDERED < wanted[0]:
        places = _anchor(video, wanted[0])
        if places is not None and (run is None or places[0] > run.begins):
            yield from _by_count(video, wanted, *places)
            return
    if run is None:
        return
    still = set(wanted)
    times = {time for time, number in run.numbers.items() if number in still}
    context = video.context
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
    if len(set(times)) < len(times) or video.ambiguous([packet.pts for packet in packets]):
        return None
    return Run(packets, {time: start.number + rank for rank, time in enumerate(times)}, start.number)


def _run_by_packets(video: Video, wanted: Sequence[int]) -> Run | None:
    """The same by the times of all packets; None if times are missing or double."""
    if (numbers := video.numbers) is None:
        return None
    decoded_at = {packet.time: packet.decoded_at for packet in video.packets}
    _, starts = cut_points([Packet(p.time, 0, p.key) for p in video.packets if p.time is not None])
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
    return Run(packets, numbers, numbers.get(start, 0))


def _anchor(video: Video, first: int) -> tuple[int, int] | None:
    """(where to begin, where to count from): the places of two keyframes before frame `first`, if there are.

    None too where some packets are hidden, since the decoder does not show them.
    """
    if not all(packet.shown for packet in video.packets):
        return None
    keys = [place for place, packet in enumerate(video.packets) if packet.key]
    at = bisect.bisect_right(keys, first - MOST_REORDERED) - 1
    return (keys[at - 1], keys[at]) if at >= 1 else None


def _by_count(video: Video, wanted: Sequence[int], begin: int, anchor: int) -> Iterator[tuple[int, Any]]:
    """The frames `wanted`, counted as they leave the decoder from the keyframe at place `anchor` on.

    Each packet is one frame, and all packets before a keyframe are shown before it; so are those behind it
    that leave the decoder earlier, which it counts. Decoding begins one keyframe earlier still, so that the
    pictures that these refer to are there.
    """
    context = video.context
    context.skip_frame = "DEFAULT"
    still, early = set(wanted), 0
    number: int | None = None  # of the next frame, once the anchor was met
    for packet in itertools.chain(_packets_of(video, begin), [None]):
        for frame in context.decode(packet):
            video.check(frame)
            place = frame.opaque
            if number is None and place == anchor:
                number = anchor + early
            if number is None:
                early += place > anchor
                continue
            if number in still:
                still.remove(number)
                yield number, frame
            number += 1
        if not still:
            return


def _packets_of(video: Video, first: int) -> Iterator[Any]:
    """The packets from place `first` on, each with its place as `opaque`; none if that cannot be found."""
    start = video.packets[first]
    times = [time for time in (start.time, start.decoded_at) if time is not None]
    place = first
    for packet in video.packets_from(min(times)) if times else ():
        seen = video.packets[place] if place < len(video.packets) else None
        if seen is None or (packet.pos, packet.size) != (seen.pos, seen.size):
            if place == first and packet.pos is not None and packet.pos < (start.pos or 0):
                continue  # the demuxer landed before it
            return
        packet.opaque = place
        place += 1
        yield packet
