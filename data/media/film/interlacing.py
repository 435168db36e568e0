"""Interlaced frames: two half pictures, of different times, in the even and the odd rows.

Codecs flag such frames, but encoders may leave the flags out, and some codecs have none. Then `idet` looks at
the pictures. `bwdif` makes one whole picture of each frame, from it and its two neighbours.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Any

from data.media.colour import UNSAID

JUDGED = 60  # frames by which a film is judged
SMALLEST = 16  # pixels of a side; of less, rows say nothing, and the chroma of 4:2:0 is too small for bwdif
# Rows below which `idet` is not asked: no interlaced format has so few, and strokes of a small picture, as
# thin as its rows, look like fields where they move up or down by part of a row.
LEAST_ROWS = 64
LEAST = 3  # frames in which the fields differ, without which a film is not called interlaced


class Fields(IntEnum):
    """Interlacing of the frames of a film, and the evidence for it."""

    WHOLE = 0
    FLAGGED = 1
    TOP_FIRST = 2
    BOTTOM_FIRST = 3

    @property
    def description(self) -> str:
        """The description to record; "" for whole frames."""
        names = ("", "flagged", "top field first, by idet", "bottom field first, by idet")
        return names[self.value]


class FieldWatch:
    """Judges the first decoded frames: by their flags, and by `idet` where there are none."""

    def __init__(self) -> None:
        self.frames, self.flagged, self._small = 0, 0, 0
        self._votes: Counter[str] = Counter()
        self._graph: Any = None

    def look(self, frame: Any) -> None:
        """Take one more frame into account."""
        if self.is_certain or min(frame.width, frame.height) < SMALLEST:
            return
        self.frames += 1
        self.flagged += frame.interlaced_frame
        self._small += frame.height < LEAST_ROWS
        if self.flagged or self._small:
            return
        if self._graph is None:
            self._graph = field_graph(frame, "idet")
        curve, frame.color_trc = frame.color_trc, UNSAID  # of luma idet asks none, and scalers know few
        self._graph.vpush(frame)
        frame.color_trc = curve
        for seen in pulled(self._graph):
            vote = seen.metadata.get("lavfi.idet.multiple.current_frame", "undetermined")
            if vote != "undetermined":
                self._votes[vote] += 1

    @property
    def is_certain(self) -> bool:
        """Whether enough frames were judged, so that more would not be looked at."""
        return max(self.flagged, self._small, sum(self._votes.values())) >= JUDGED

    @property
    def fields(self) -> Fields:
        """The verdict: that of the flags if most frames have them, else that of most frames judged."""
        if self.flagged:
            return Fields.FLAGGED if 2 * self.flagged > self.frames else Fields.WHOLE
        top, bottom = self._votes["tff"], self._votes["bff"]
        if max(top, bottom) < LEAST or top + bottom <= self._votes["progressive"]:
            return Fields.WHOLE
        return Fields.TOP_FIRST if top >= bottom else Fields.BOTTOM_FIRST


def deinterlaced(frames: Iterable[tuple[int, Any]], fields: Fields) -> Iterator[tuple[int, Any]]:
    """Yield (number, whole frame) of each of `frames`, numbered frames in order of display.

    A frame is right where both of its neighbours are among them, or are no frames of the film.
    """
    graph: Any = None
    waiting: deque[int] = deque()
    for number, frame in frames:
        if graph is not None and waiting and number != waiting[-1] + 1:
            yield from _rest(graph, waiting)
            graph = None
        if graph is None:
            graph = field_graph(frame, "bwdif", _OPTIONS[fields])
        waiting.append(number)
        graph.vpush(frame)
        for whole in pulled(graph):
            yield waiting.popleft(), whole
    if graph is not None:
        yield from _rest(graph, waiting)


_OPTIONS = {
    Fields.FLAGGED: "mode=send_frame:parity=auto:deint=interlaced",
    Fields.TOP_FIRST: "mode=send_frame:parity=tff:deint=all",
    Fields.BOTTOM_FIRST: "mode=send_frame:parity=bff:deint=all",
}


def _rest(graph: Any, waiting: deque[int]) -> Iterator[tuple[int, Any]]:
    """Yield the frames that a graph still holds when no frame follows."""
    graph.vpush(None)
    for whole in pulled(graph):
        yield waiting.popleft(), whole
    waiting.clear()


def with_neighbours(numbers: Iterable[int], frames: int) -> list[int]:
    """Return the numbers with those before and after each, in a film of `frames` frames; ascending."""
    wide = {near for number in numbers for near in (number - 1, number, number + 1)}
    return sorted(number for number in wide if 0 <= number < frames)


def field_graph(frame: Any, filter: str, options: str | None = None) -> Any:
    """Build a graph of one filter for frames such as this one."""
    from av.filter import Graph

    graph = Graph()
    graph.threads = 1
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base
    )
    graph.link_nodes(source, graph.add(filter, options), graph.add("buffersink")).configure()
    return graph


def pulled(graph: Any) -> Iterator[Any]:
    """Yield the frames that a graph has ready."""
    import av

    while True:
        try:
            yield graph.vpull()
        except (av.BlockingIOError, av.EOFError):
            return
