"""The run in TensorBoard: event files in `tensorboard/` of the run folder.

Every start of the run begins a file of its own, and before anything else it says from which step on earlier
files no longer count (`SessionLog.START`): what a killed attempt wrote beyond the checkpoint that the run
went on from, TensorBoard leaves out. A rollback says the same within a file. Each row is handed to the
system as it is shown, so that a kill loses none that a checkpoint covers.
"""

from __future__ import annotations

import math
import re
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from core import environment
from core.files import published, read_bytes
from core.run.folder import TENSORBOARD

FILES = "events.out.tfevents."  # the prefix TensorBoard looks for; it reads files in the order of their names
PNG_SIZE = (16, 20)  # where a PNG file has width and height, of 4 bytes


class EventFiles:
    """Writes the numbers of rows as scalars, those of a part of a row as `PART/NAME`."""

    def __init__(self, folder: Path, step: int) -> None:
        """Begin a file after `step` steps."""
        from tensorboard.compat.proto import event_pb2, summary_pb2  # an extra
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._events, self._summaries = event_pb2, summary_pb2
        place = folder / TENSORBOARD
        place.mkdir(parents=True, exist_ok=True)
        self._file = open(place / _next_name(place), "xb")  # noqa: SIM115 (as long as the run)
        self._records = RecordWriter(self._file)
        self._write(file_version="brain.Event:2")
        self.rewind(step)

    def show(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Show metrics rows, in order."""
        for row in rows:
            self._show(row["step"], numbers(row))

    def show_beside(self, step: int, values: Mapping[str, float | None]) -> None:
        """Show further numbers of a step."""
        self._show(step, numbers(values))

    def show_pictures(self, step: int, pictures: Mapping[str, Path]) -> None:
        """Show pictures; TensorBoard has no films."""
        shown = []
        for tag, path in pictures.items():
            if path.suffix == ".png":
                data = read_bytes(path)
                width, height = (int.from_bytes(data[start : start + 4], "big") for start in PNG_SIZE)
                image = self._summaries.Summary.Image(
                    height=height, width=width, colorspace=3, encoded_image_string=data
                )
                shown.append(self._summaries.Summary.Value(tag=tag, image=image))
        self._write(step=step, summary=self._summaries.Summary(value=shown))

    def rewind(self, step: int) -> None:
        """Say that what was shown of steps after `step` does not count."""
        start = self._events.SessionLog(status=self._events.SessionLog.START)
        self._write(step=step + 1, session_log=start)

    def close(self) -> None:
        """End the file."""
        self._file.close()

    def _show(self, step: int, values: Iterable[tuple[str, float]]) -> None:
        scalars = [self._summaries.Summary.Value(tag=tag, simple_value=value) for tag, value in values]
        self._write(step=step, summary=self._summaries.Summary(value=scalars))

    def _write(self, **fields: Any) -> None:
        event = self._events.Event(wall_time=time.time(), **fields)
        self._records.write(event.SerializeToString())
        self._records.flush()


def numbers(row: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    """Return the finite numbers of a row except its step; those of parts under the part's name."""
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from numbers(value, f"{prefix}{name}/")
        elif isinstance(value, int | float) and math.isfinite(value) and (prefix, name) != ("", "step"):
            yield f"{prefix}{name}", float(value)


def _next_name(place: Path) -> str:
    """Return a name that sorts after those of all existing files, whatever this node's clock says."""
    taken = [re.match(r"\d+", path.name.removeprefix(FILES)) for path in published(place, f"{FILES}*")]
    number = max([int(time.time()), *(int(found[0]) + 1 for found in taken if found)])
    return f"{FILES}{number:010d}.{environment.node()}"
