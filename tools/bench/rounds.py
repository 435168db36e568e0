"""Time ways to do the same work in turn in one process, each with a check of its result."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from core.errors import WorkError
from core.progress import say


@dataclass(frozen=True)
class Way:
    """One way to do the work.

    items: starts a round and yields what it makes, `units` of work in all (a slow way may do less of it).
    check: whether an item is right; it runs on every item of the warm-up, and on the last of each timed round
    when the clock has stopped.  prepare: runs before each round, outside its time.
    has_start: the clock starts when the first item is there, which `units` do not count.
    """

    name: str
    units: int
    items: Callable[[], Iterator[Any]]
    check: Callable[[Any], bool]
    prepare: Callable[[], None] = lambda: None
    has_start: bool = False


@dataclass(frozen=True)
class Timing:
    """Seconds of every round, and units of work a second: in the fastest round, and in the median one.

    start: median seconds to the first item, where these are not counted.
    """

    units: int
    seconds: tuple[float, ...]
    best: float
    median: float
    correct: bool = True
    start: float = 0.0


@dataclass(frozen=True)
class Floor:
    """A promise about a row: `value` is at least `floor` (or at most, where `at_most`)."""

    what: str
    value: float
    floor: float
    at_most: bool = False

    @property
    def is_met(self) -> bool:
        """Whether the value meets its floor."""
        return self.value <= self.floor if self.at_most else self.value >= self.floor


@dataclass
class Row:
    """One case. timings: this project's first. absent: peers that are not installed. facts: other numbers."""

    case: str
    unit: str
    protocol: str
    timings: dict[str, Timing] = field(default_factory=dict)
    absent: tuple[str, ...] = ()
    facts: dict[str, float] = field(default_factory=dict)
    floors: list[Floor] = field(default_factory=list)

    def ratio(self, name: str) -> float:
        """Return how many times faster this project is than `name`: by the fastest round of each."""
        ours = next(iter(self.timings.values()))
        return ours.best / self.timings[name].best

    def median_ratio(self, name: str) -> float:
        """Return the same by the median rounds."""
        ours = next(iter(self.timings.values()))
        return ours.median / self.timings[name].median

    def require(self, name: str, floor: float) -> None:
        """Promise that this project is `floor` times as fast as `name`, if that was measured."""
        if name in self.timings:
            self.floors.append(Floor(f"times {name}", self.ratio(name), floor))

    def as_dict(self) -> dict[str, Any]:
        """Return the row as JSON values."""
        floors = [{**asdict(floor), "is_met": floor.is_met} for floor in self.floors]
        return {**asdict(self), "floors": floors}


def measure(ways: Sequence[Way], rounds: int) -> dict[str, Timing]:
    """Time every way `rounds` times, in turn and from another first one each round, after a warm-up.

    WorkError names a way that gives something wrong.
    """
    for way in ways:
        way.prepare()
        for item in way.items():
            _require_right(way, item)
    seconds: dict[str, list[float]] = {way.name: [] for way in ways}
    starts: dict[str, list[float]] = {way.name: [] for way in ways}
    for round in range(rounds):
        for number in range(len(ways)):
            way = ways[(round + number) % len(ways)]
            started, took = _time(way)
            starts[way.name].append(started)
            seconds[way.name].append(took)
        say(f"bench: round {round + 1} of {rounds}")
    return {way.name: _timing(way.units, seconds[way.name], starts[way.name]) for way in ways}


def _time(way: Way) -> tuple[float, float]:
    """Return the seconds of a start, 0 where it counts as work, and those of the rest of a round."""
    way.prepare()
    item, started, start = None, 0.0, time.perf_counter()
    items = way.items()
    if way.has_start:
        item = next(items)
        started = time.perf_counter() - start
        start = time.perf_counter()
    for item in items:  # noqa: B007 (the last one is looked at)
        pass
    took = time.perf_counter() - start
    _require_right(way, item)
    return started, took


def _require_right(way: Way, item: Any) -> None:
    if not way.check(item):
        raise WorkError(f"{way.name} does not give what was written")


def _timing(units: int, seconds: list[float], starts: list[float]) -> Timing:
    median, start = float(np.median(seconds)), float(np.median(starts))
    return Timing(units, tuple(seconds), units / min(seconds), units / median, start=start)


def table(rows: Sequence[Row]) -> str:
    """Return the rows as Markdown."""
    lines = ["| case | way | best | median | unit | ours is, best | median |"]
    lines.append("|---|---|--:|--:|---|--:|--:|")
    for row in rows:
        for name, timing in row.timings.items():
            lines.append(
                f"| {row.case} | {name} | {timing.best:.4g} | {timing.median:.4g} | {row.unit}/s "
                f"| {row.ratio(name):.3g}x | {row.median_ratio(name):.3g}x |"
            )
        lines += [f"| {row.case} | {name} | not installed | | | | |" for name in row.absent]
        lines += [f"| {row.case} | {name} | {value:.4g} | | | | |" for name, value in row.facts.items()]
    lines += ["", "| case | promise | measured | floor | |", "|---|---|--:|--:|---|"]
    for row in rows:
        for floor in row.floors:
            sign = "<=" if floor.at_most else ">="
            met = "met" if floor.is_met else "**missed**"
            lines.append(
                f"| {row.case} | {floor.what} | {floor.value:.4g} | {sign} {floor.floor:g} | {met} |"
            )
    return "\n".join(lines)
