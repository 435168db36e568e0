"""The writer of a run's record, safe against a full disk, a kill within a line and a second writer.

The owner of a run knows how long it has made a record. So whatever lies beyond that length when it writes is
not part of the record: a piece of a line that did not fit on the disk, or rows of an older attempt on another
host that does not know yet that it has lost the run. It is cut off. Whether this process still owns the run
is asked before every write, so the older attempt cuts nothing and stops there.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import IO, Any

from core.files import atomic_file, open_regular, regular
from core.metrics.record_tally import Tally, carried_on
from core.progress import counted, say
from core.records import ATTEMPT, Row, decode, encode, end_of_lines, iterate, lines_from_end

MOST_WAITING = 100_000  # rows kept in memory while they cannot be written
CHUNK = 1 << 20  # bytes written at a time
WATCH_S = 10.0  # how often a run that writes nothing asks whether it still owns its folder


class RecordWriter:
    """Appends the rows of one process to one file. Rows that cannot be written wait and are written later.

    attempt: of the run, noted in every row; "" notes none.  require_owner: raises WorkError once another
    attempt owns the run.  size: bytes of the record that the checkpoint which this run continues vouches for,
    None where it does not say.  noted: all that it notes of them, None of an earlier version's.
    stand: another object whenever the record goes back.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.own("", lambda: None, None)
        self._end: int | None = None  # the end of the record; None until the file was looked at
        self._waiting: deque[bytes] = deque()
        self._lost, self._problem = 0, ""

    def own(
        self, attempt: str, require_owner: Callable[[], None], size: int | None, noted: Tally | None = None
    ) -> None:
        """Write for this attempt from here on."""
        self._attempt, self._require_owner, self.vouched = attempt, require_owner, size
        self.noted, self._tally, self.stand = noted, noted, object()
        self._watched = time.monotonic()

    @property
    def size(self) -> int:
        """Return the bytes of the record on disk."""
        return self._end or 0

    def tally(self) -> Tally | None:
        """Return what a checkpoint is to note; None while what stood there before is not counted yet."""
        if not self._end or self._tally is None:
            return None if self._end else Tally()
        with contextlib.suppress(OSError), open(self.path, "rb", opener=regular) as file:
            self._tally = carried_on(self._tally, file, self._end)
            return self._tally if self._tally.size == self._end else None
        return None  # the next checkpoint notes it

    def take_tally(self, tally: Tally, since: object) -> None:
        """Go on from a tally of the beginning of the file, unless the record has gone back since `since`."""
        if self._tally is None and self.stand is since:
            self._tally = tally

    def watch(self) -> None:
        """Raise WorkError within WATCH_S after another attempt has taken the run over; call it every step."""
        if time.monotonic() - self._watched >= WATCH_S:
            self._require_owner()
            self._watched = time.monotonic()

    def append(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Add rows at the end: on disk, or in memory until that is possible again."""
        attempt = {ATTEMPT: self._attempt} if self._attempt else {}
        for row in rows:
            if len(self._waiting) < MOST_WAITING:
                self._waiting.append(encode({**row, **attempt}))
            else:
                self._lose_one()
        self._write()

    def sync(self) -> str:
        """Wait until the disk has all rows; return the reason why it does not take them, "" for none."""
        self._write()
        if not self._problem and self._end:
            try:
                with open_regular(self.path) as file:
                    os.fsync(file.fileno())
            except OSError as error:
                self._failed(error)
        if self._lost:
            return f"{self.path}: {counted(self._lost, 'row')} lost, since the disk took none for too long"
        return self._problem

    def last_step(self) -> int | None:
        """Return the step of the last row, None where there is no row."""
        if self._waiting:
            row = decode(self._waiting[-1])
            return row.get("step") if row else None
        if not self.path.exists():
            return None
        with open_regular(self.path) as file:
            lines = lines_from_end(file, os.fstat(file.fileno()).st_size)
            return next((line.row["step"] for line in lines if line.row and "step" in line.row), None)

    def beyond(self, step: int) -> list[Row]:
        """Return the rows after those of the first `step` steps."""
        return list(iterate(self.path, self._boundary(step)))

    def rewind(self, step: int, keeps: Callable[[Row], bool] | None = None) -> None:
        """Go back to after `step` steps: of the rows beyond, keep only those for which `keeps` is true.

        A last line that was cut off goes as well. How much is read does not depend on the record's length.
        """
        self._waiting.clear()
        self._lost, self._problem, self._end = 0, "", None
        self._tally, self.stand = Tally(), object()
        if not self.path.exists():
            return
        boundary = self._boundary(step)
        if boundary:
            self._tally = self.noted if self.noted and self.noted.size == boundary else None
        with open(self.path, "rb+", opener=regular) as file:
            size = os.fstat(file.fileno()).st_size
            if torn := size - end_of_lines(file, size):
                say(f"warning: {self.path}: its last line was cut off, and its {torn} bytes go")
            file.seek(boundary)
            tail = [line for line in file if line.endswith(b"\n")] if keeps else []
            kept = [line for line in tail if keeps and (row := decode(line)) is not None and keeps(row)]
            self._end = boundary + sum(map(len, kept))
            if kept == tail[: len(kept)]:
                if size != self._end:
                    file.truncate(self._end)
                return
            with atomic_file(self.path) as copy:
                _copy(file, copy, boundary)
                copy.writelines(kept)

    def _boundary(self, step: int) -> int:
        """Return where the rows of the first `step` steps end in the file."""
        if step <= 0 or not self.path.exists():
            return 0
        with open_regular(self.path) as file:
            size = os.fstat(file.fileno()).st_size
            if self.vouched is not None and self.vouched > size:
                if self.noted is None:  # else the comparison of everything noted has already reported it
                    say(f"warning: {self.path} has lost {self.vouched - size} bytes since its last save")
            elif self.vouched is not None and _ends_line(file, self.vouched):
                return self.vouched
            for line in lines_from_end(file, size):
                if line.row is not None and line.row.get("step", step) <= step:
                    return line.stop
        return 0

    def _write(self) -> None:
        """Write the rows that wait; cut off what another attempt wrote."""
        if not self._waiting and not self.path.exists():
            return
        self._require_owner()
        self._watched = time.monotonic()
        try:
            descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
            with os.fdopen(descriptor, "rb+", buffering=0) as file:
                self._cut(file)
                while self._waiting:
                    self._write_some(file)
        except OSError as error:
            self._failed(error)
            return
        if self._problem:
            say(f"{self.path} can be written again")
            self._problem = ""

    def _write_some(self, file: IO[bytes]) -> None:
        """Append some of the rows that wait, whole lines or nothing."""
        assert self._end is not None
        rows, size = 0, 0
        while rows < len(self._waiting) and (not rows or size + len(self._waiting[rows]) <= CHUNK):
            size += len(self._waiting[rows])
            rows += 1
        data = whole = memoryview(b"".join(self._waiting[n] for n in range(rows)))
        try:
            while data:
                data = data[write(file, data) :]
        except OSError:
            with contextlib.suppress(OSError):  # then it is cut off before the next write
                file.truncate(self._end)
            raise
        if file.tell() != self._end + size:  # another has written since `_cut`
            self._require_owner()
            self._cut(file)
            return
        if self._tally is not None and self._tally.size == self._end:
            self._tally = self._tally.after(whole)
        self._end += size
        for _ in range(rows):
            self._waiting.popleft()

    def _cut(self, file: IO[bytes]) -> None:
        """Cut the file to the length of the record."""
        size = os.fstat(file.fileno()).st_size
        if self._end is None or size < self._end:
            if self._end is not None:
                say(f"warning: {self.path}: {self._end - size} bytes were taken away by another")
            self._end = end_of_lines(file, size)
        if size > self._end:
            file.seek(self._end)
            what = counted(file.read(size - self._end).count(b"\n"), "row")
            file.truncate(self._end)
            say(f"warning: {self.path}: {size - self._end} bytes ({what}) not written by this attempt go")

    def _failed(self, error: OSError) -> None:
        reason = error.strerror or str(error)
        if not self._problem:
            say(f"warning: {self.path} cannot be written: {reason}; its rows wait in memory")
        rows = counted(len(self._waiting), "row")
        self._problem = f"{self.path}: {rows} not on disk: {reason}"

    def _lose_one(self) -> None:
        if not self._lost:
            say(
                f"warning: {self.path}: {MOST_WAITING} rows wait for the disk, and no more can: later "
                "ones are lost, so the run is not saved any more"
            )
        self._lost += 1


def write(file: IO[bytes], data: memoryview) -> int:
    """Return how much of `data` the system took."""
    return file.write(data)


def _ends_line(file: IO[bytes], position: int) -> bool:
    return position == 0 or os.pread(file.fileno(), 1, position - 1) == b"\n"


def _copy(source: IO[bytes], target: IO[bytes], size: int) -> None:
    source.seek(0)
    while size > 0:
        block = source.read(min(CHUNK, size))
        target.write(block)
        size -= len(block)
