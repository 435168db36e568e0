"""Records: append-only files of one JSON object a line (`.jsonl`), and how they are read.

A record outlives what happens to its file. A line that a kill or a power loss cut off is dropped, a line that
is no JSON object is passed over, and both are said. Readers that need the end of a record read it from the
end, so that what a start costs does not depend on how long a run has been.
"""

from __future__ import annotations

import errno
import itertools
import json
import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

from core.files import atomic_file, open_regular
from core.progress import counted, say

ATTEMPT = "attempt"  # of a row: the attempt at the run that wrote it
BLOCK = 1 << 16  # bytes read at a time, from the end
LONGEST = 1 << 22  # bytes of a line; a longer one counts as one that is no JSON object

Row = dict[str, Any]


class Line(NamedTuple):
    """One whole line of a file: where it begins and ends, and its row; None where it is no JSON object."""

    start: int
    stop: int
    row: Row | None


def encode(row: Mapping[str, Any]) -> bytes:
    """Return the line of a row; a number that is not finite, which JSON lacks, becomes null."""
    try:
        text = json.dumps(row, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(row), allow_nan=False)
    return text.encode() + b"\n"


def decode(line: bytes) -> Row | None:
    """Return the row of a line; None where it is no JSON object, or its step is not a number of steps."""
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict):
        return None
    step = row.get("step", 0)
    return row if type(step) is int and 0 <= step < 2**63 else None


def number(row: Row, name: str) -> float | None:
    """Return the finite number that a row has under a name, None where it has none."""
    value = row.get(name)
    if not isinstance(value, (int, float)) or abs(value) > sys.float_info.max:
        return None
    return float(value) if math.isfinite(value) else None


def iterate(path: Path, start: int = 0) -> Iterator[Row]:
    """Yield the rows of a record from byte `start` on, in order; an absent file has none.

    A run's rows come without the attempt that wrote them, and those that an attempt added after a newer one
    had taken the run over are left out. So is a last line that is still being written, or was cut off.
    """
    if not path.exists():
        return
    attempt, before = "", set[str]()
    broken = foreign = 0
    with open_regular(path) as file:
        file.seek(start)
        for line in _whole_lines(file):
            if (row := decode(line)) is None:
                broken += 1
                continue
            if (writer := str(row.pop(ATTEMPT, ""))) != attempt:
                if writer in before:
                    foreign += 1
                    continue
                before.add(attempt)
                attempt = writer
            yield row
    if broken:
        say(f"warning: {path}: {counted(broken, 'line')} passed over that are no JSON objects")
    if foreign:
        say(f"warning: {path}: {counted(foreign, 'row')} left out of attempts that had lost the run")


def read_rows(path: Path) -> list[Row]:
    """Return what `iterate` yields."""
    return list(iterate(path))


def read_from(path: Path, start: int) -> tuple[list[Row], int]:
    """Return the rows from byte `start` on and where the last whole line ends; an absent file has none.

    Lines that are no JSON objects are passed over: `append_shared` has ended what a killed process began.
    """
    rows: list[Row] = []
    if not path.exists():
        return rows, start
    with open_regular(path) as file:
        file.seek(start)
        for line in _whole_lines(file):
            start = file.tell()
            if (row := decode(line)) is not None:
                rows.append(row)
    return rows, start


def lines_from_end(file: IO[bytes], stop: int) -> Iterator[Line]:
    """Yield the whole lines that end at byte `stop` or before it, the last first, reading block by block."""
    stop = end_of_lines(file, stop)
    begin, text = stop, b""  # the start of the piece in memory, which ends at `stop`
    while stop > 0:
        newline = text.rfind(b"\n", 0, len(text) - 1)
        if newline < 0 and len(text) > LONGEST:
            start = end_of_lines(file, begin)
            yield Line(start, stop, None)
            stop, begin, text = start, start, b""
            continue
        if newline < 0 and begin > 0:
            size = min(BLOCK, begin)
            begin -= size
            text = os.pread(file.fileno(), size, begin) + text
            continue
        start = begin + newline + 1
        yield Line(start, stop, decode(text[newline + 1 :]))
        stop, text = start, text[: newline + 1]


def read_last(path: Path, count: int) -> list[Row]:
    """Return the last rows of a record, at most `count`, reading its end alone; [] without a file."""
    try:
        with open_regular(path) as file:
            lines = lines_from_end(file, os.fstat(file.fileno()).st_size)
            found = list(itertools.islice((line.row for line in lines if line.row is not None), count))
    except FileNotFoundError:
        return []
    for row in found:
        row.pop(ATTEMPT, None)
    return found[::-1]


def end_of_lines(file: IO[bytes], stop: int) -> int:
    """Return where the last whole line within the first `stop` bytes ends; 0 where there is none."""
    while stop > 0:
        begin = max(0, stop - BLOCK)
        newline = os.pread(file.fileno(), stop - begin, begin).rfind(b"\n")
        if newline >= 0:
            return begin + newline + 1
        stop = begin
    return 0


def _whole_lines(file: IO[bytes]) -> Iterator[bytes]:
    """Yield the lines that follow in a file, b"" for one longer than LONGEST; none that has no end."""
    while line := file.readline(LONGEST):
        if line.endswith(b"\n"):
            yield line
        elif _skip_line(file):
            yield b""
        else:
            return


def _skip_line(file: IO[bytes]) -> bool:
    """Read on to the end of a line; return whether it has one."""
    while piece := file.readline(LONGEST):
        if piece.endswith(b"\n"):
            return True
    return False


def publish(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Publish a record of exactly these rows."""
    with atomic_file(path) as file:
        file.writelines(map(encode, rows))


def append_shared(path: Path, row: Mapping[str, Any]) -> None:
    """Append one row durably to a record that several processes write; OSError where that fails.

    A last line that a killed process left half-written is ended first.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        is_torn = end > 0 and os.pread(file.fileno(), 1, end - 1) != b"\n"
        data = (b"\n" if is_torn else b"") + encode(row)
        if file.write(data) != len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        os.fsync(file.fileno())


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
