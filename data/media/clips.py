"""Cut long videos into clips: by length and stride, and at scene changes.

A clip is a run of the video's own packets, copied: no picture is decoded and compressed again, each clip is a
small file of its own, and so an ordinary sample with one row of the index. For that a clip must start at a
keyframe, and must not lose a packet that its pictures refer to; its limits move to where both hold. (The
alternatives: to compress again loses quality; to point several rows at ranges of one long file makes every
reader of a clip fetch the whole file.) The frame rate is chosen when clips are decoded, `buckets.fps`.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from core.config.settings import setting
from core.errors import UserError

END = 2**62  # a time after every packet


class Packet(NamedTuple):
    """A compressed picture. time: when it is shown, in units of the stream. size: bytes.

    shown: False where the file says that it is not.
    """

    time: int
    size: int
    key: bool
    shown: bool = True


class Clip(NamedTuple):
    """Packets with start <= time < stop, in units of the stream; how many frames, and how many bytes.

    shown: from which time on frames are shown; None: all are.
    """

    start: int
    stop: int
    frames: int
    bytes: int
    shown: int | None = None

    @property
    def begins(self) -> int:
        """Time in the whole video at which the first frame of the clip is shown."""
        return self.start if self.shown is None else self.shown


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """Rules for cutting videos; with neither field set they stay whole."""

    length_s: float = setting(0.0, "cut videos into clips of this length; 0 is off", unit="s", low=0)
    stride_s: float = setting(
        0.0,
        "time between the starts of consecutive clips; 0: clips adjoin, each ending at the first keyframe"
        " after length_s",
        unit="s",
        low=0,
    )
    scenes: bool = setting(False, "cut at changes of scene, before length and stride apply")
    cuts: Literal["difference", "pyscenedetect"] = setting(
        "difference",
        "how changes of scene are detected: by the difference of small RGB frames, or by PySceneDetect's "
        "ContentDetector (hue, saturation, luma), which confuses flashes and camera motion with cuts less"
        " easily and needs `pip install longtake[scenes]`",
    )
    scene_threshold: float = setting(
        27.0,
        "mean difference of neighbouring frames, of 255, above which a scene changes",
        low=0,
        high=255,
    )

    def __post_init__(self) -> None:
        if self.stride_s and not self.length_s:
            raise UserError("stride_s", self.stride_s, "0, or a length_s beside it")
        if self.cuts != "difference" and not self.scenes:
            raise UserError("cuts", self.cuts, "difference, or scenes=true beside it")

    @property
    def on(self) -> bool:
        """Whether videos are cut at all."""
        return self.length_s > 0 or self.scenes


def cut_video(
    packets: Sequence[Packet], changes: Sequence[int], config: ClipConfig, unit_s: float
) -> list[Clip]:
    """Return the clips of a video, in order of their start; the whole video may be one.

    packets: in the order of the file (of decoding).  changes: times at which a scene begins, ascending.
    unit_s: seconds of a unit of time.
    """
    boundaries, starts = cut_points(packets)
    in_time = sorted(packets)
    times = [packet.time for packet in in_time]
    total = [0, *itertools.accumulate(packet.size for packet in in_time)]
    shown = [0, *itertools.accumulate(packet.shown for packet in in_time)]
    length, stride = config.length_s / unit_s, config.stride_s / unit_s
    clips = []
    for begin, end in _shown_runs(in_time):
        # What comes before the first keyframe of a run is shown by a clip that begins with hidden frames.
        hidden = {begin: starts[place - 1]} if (place := bisect.bisect_right(starts, begin)) else {}
        for first, last in itertools.pairwise(_edges(begin, end, changes)):
            inside = starts[bisect.bisect_left(starts, first) : bisect.bisect_left(starts, last)]
            if first == begin and hidden and (not inside or inside[0] > begin):
                inside = [begin, *inside]
            stop = boundaries[bisect.bisect_right(boundaries, last) - 1] if last >= boundaries[0] else first
            for a, b in _clips_of_scene(inside, boundaries, stop, length, stride):
                start = hidden.get(a, a)
                i, j = bisect.bisect_left(times, start), bisect.bisect_left(times, b)
                frames = shown[j] - shown[i]
                clips.append(Clip(start, b, frames, total[j] - total[i], None if start == a else a))
    return clips


def _edges(begin: int, end: int, changes: Sequence[int]) -> list[int]:
    """Return the boundaries of scenes between two times."""
    return [begin, *(change for change in changes if begin < change < end), end]


def _shown_runs(in_time: Sequence[Packet]) -> list[tuple[int, int]]:
    """Return (time of the first frame, time of what is hidden after the last) of each run of shown frames."""
    edges = [
        packet.time
        for packet, before in zip(in_time, [None, *in_time[:-1]], strict=True)
        if packet.shown != (before is not None and before.shown)
    ]
    return list(zip(edges[::2], [*edges[1::2], END], strict=False))


def _clips_of_scene(
    starts: list[int], boundaries: list[int], stop: int, length: float, stride: float
) -> Iterator[tuple[int, int]]:
    """Yield (start, stop) of the clips from the keyframes `starts` of one scene, which ends at `stop`."""
    at: int | None = starts[0] if starts and starts[0] < stop else None
    while at is not None:
        if not length:
            yield at, stop
            return
        following = _first_from(starts, at + (stride or length))
        if stride:
            yield at, min(_first_from(boundaries, at + length) or stop, stop)
        else:
            yield at, following or stop
        at = following if following is not None and following < stop else None


def _first_from(times: list[int], least: float) -> int | None:
    place = bisect.bisect_left(times, least)
    return times[place] if place < len(times) else None


def cut_points(packets: Sequence[Packet]) -> tuple[list[int], list[int]]:
    """Return the times at which a clip may stop, ascending, the last being END.

    Also return those at which one may start.

    A stop lies where all packets so far are shown before all that follow: pictures refer to earlier packets
    only, so nothing that stays needs what goes. A start is one whose first packet is a keyframe; that of an
    open group of pictures, which later packets are shown before, is none.
    """
    after = [END]
    for packet in reversed(packets):
        after.append(min(after[-1], packet.time))
    least_from = after[::-1]  # for each place, the least time from there on
    stops, starts, most = [], [], -END
    for place, packet in enumerate(packets):
        if most < least_from[place]:
            stops.append(least_from[place])
            if packet.key and packet.time == least_from[place]:
                starts.append(packet.time)
        most = max(most, packet.time)
    return [*stops, END], starts
