"""Times at which the frames of a video are shown, measured from its packets, not from its header.

A frame is on screen from its own time to that of the next; the time of the first one is 0. Containers round
times (Matroska to milliseconds), so a frame counts as shown up to a millisecond before its time.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from core.progress import counted
from data.media.formats import MediaError

_NTSC = 1001  # the denominator of rates of television, such as 30000/1001
_ROUNDED = Fraction(1, 500_000)  # of a rate, far less than 24 and 24000/1001 differ by
EARLY_S = Fraction(1, 1000)  # how much before its time a frame counts as shown


class Seen(NamedTuple):
    """Facts about a packet that are known without decoding it; times in units of the stream.

    time: of display, None where the file does not say it.  shown: False where an edit list hides it.
    """

    time: int | None
    decoded_at: int | None
    key: bool
    shown: bool
    duration: int
    size: int
    pos: int | None


class Times(NamedTuple):
    """Times of frames. ticks: of each, ascending. unit_s: seconds of a tick. end: of the last frame.

    rate: frames a second, exact where they are evenly spaced, else the mean.  variable: whether they are not.
    """

    ticks: tuple[int, ...]
    unit_s: Fraction
    end: int
    rate: Fraction
    variable: bool

    @property
    def seconds(self) -> Fraction:
        """Duration in seconds, from the first frame to the end of the last."""
        return (self.end - self.ticks[0]) * self.unit_s

    def on_screen(self, at: Fraction) -> int:
        """Return the number of the frame shown `at` seconds after the first.

        MediaError after the end of the film.
        """
        if at >= self.seconds - EARLY_S and at > 0:
            raise MediaError(f"lasts {float(self.seconds):.3f} s, a frame at {float(at):.3f} s is needed")
        tick = self.ticks[0] + (at + EARLY_S) / self.unit_s
        return bisect.bisect_right(self.ticks, tick) - 1

    def count_at(self, fps: float) -> int:
        """Return how many frames the film has at `fps` frames a second."""
        return frames_at(self.seconds, fps)


def frames_at(seconds: Fraction | float, fps: float) -> int:
    """Return the frames of a film at times 0, 1 / fps, ...; at least 1."""
    exact = (Fraction(seconds) - EARLY_S) * Fraction(fps)
    return max(1, -(-exact.numerator // exact.denominator))


def measure(packets: Sequence[Seen], stream: Any, by_chunk: bool = False) -> Times:
    """Return the times of the frames that are shown, in order of display; MediaError if they cannot be told.

    by_chunk: frames are shown at the times of decoding, one after another, which is what AVI means by them.

    Times of display, or where a packet has none, of decoding; where these are missing too, the rate that the
    header states. Equal times are kept: the frame that comes first is then not seen.
    """
    shown = [packet for packet in packets if packet.shown]
    unit = Fraction(stream.time_base)
    ticks = [] if by_chunk else sorted(packet.time for packet in shown if packet.time is not None)
    if len(ticks) < len(shown):
        ticks = sorted(packet.decoded_at for packet in shown if packet.decoded_at is not None)
    if len(ticks) < len(shown) or (len(shown) > 1 and ticks[0] == ticks[-1]):
        stated = Fraction(stream.average_rate or stream.guessed_rate or 0)
        if stated <= 0 and len(shown) > 1:
            raise MediaError(f"video stream without times or rate ({counted(len(shown), 'frame')})")
        unit = 1 / stated if stated > 0 else Fraction(1)
        return Times(tuple(range(len(shown))), unit, len(shown), stated, False)
    return _spaced(ticks, [packet.duration for packet in _in_time(shown)], unit, stream)


def _in_time(shown: Sequence[Seen]) -> list[Seen]:
    if any(packet.time is None for packet in shown):
        return list(shown)
    return sorted(shown, key=lambda packet: packet.time or 0)


def _spaced(ticks: Sequence[int], durations: Sequence[int], unit: Fraction, stream: Any) -> Times:
    """Return the rate and the end, from frames with times."""
    said = [_usual(Fraction(r)) for r in (stream.average_rate, stream.guessed_rate, stream.base_rate) if r]
    stated = sorted(said, key=lambda rate: rate.denominator not in (1, _NTSC))
    gaps = [after - before for before, after in itertools.pairwise(ticks)]
    last = durations[-1] or (gaps[-1] if gaps else 0)
    # Matroska repeats one stated duration for all packets; a last one among false ones says nothing.
    if gaps and any(abs(gap - stated) > 1 for gap, stated in zip(gaps, durations, strict=False)):
        last = gaps[-1]
    if not gaps:
        # For one frame, readers make up a rate and a duration from the time unit; the mean rate is stated.
        rate = Fraction(stream.average_rate or 0)
        return Times(tuple(ticks), unit, ticks[0] + (last if rate else 0), rate, False)
    if min(gaps) == max(gaps):
        rate = 1 / (gaps[0] * unit)
        return Times(tuple(ticks), unit, ticks[-1] + gaps[0], rate, False)
    last = max(last, 1)
    for rate in stated:
        if rate > 0 and _fits(ticks, rate, unit):
            return Times(tuple(ticks), unit, ticks[-1] + last, rate, False)
    end = ticks[-1] + last
    mean = Fraction(len(ticks)) / ((end - ticks[0]) * unit)
    return Times(tuple(ticks), unit, end, mean.limit_denominator(1 << 16), True)


def _usual(rate: Fraction) -> Fraction:
    """Return the rate that a stated one is a rounding of: whole, or whole times 1000/1001.

    Matroska states the length of a frame in whole nanoseconds: 60000/1001 then reads as 19001/317.
    """
    for near in (Fraction(round(rate)), Fraction(1000 * round(rate * _NTSC / 1000), _NTSC)):
        if near > 0 and abs(rate - near) <= near * _ROUNDED:
            return near
    return rate


def _fits(ticks: Sequence[int], rate: Fraction, unit: Fraction) -> bool:
    """Return whether times are those of a constant rate, rounded to whole ticks."""
    step = 1 / (rate * unit)
    slack = min(Fraction(1), step / 4)  # ticks may be as long as frames
    return all(abs(tick - ticks[0] - number * step) <= slack for number, tick in enumerate(ticks))
