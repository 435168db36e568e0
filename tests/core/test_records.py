"""Records, and damage to their files. Run: pytest tests/core/test_records.py"""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core import records
from core.errors import WorkError
from core.metrics import record_writer
from core.metrics.record_writer import RecordWriter
from core.records import append_shared, encode, lines_from_end, publish, read_from, read_last, read_rows


def steps(path: Path) -> list[int]:
    return [row["step"] for row in read_rows(path)]


def rows(*numbers: int) -> list[dict[str, Any]]:
    return [{"step": number, "loss": 0.1 * number} for number in numbers]


def lines(*numbers: int, attempt: str = "") -> bytes:
    own = {"attempt": attempt} if attempt else {}
    return b"".join(encode(row | own) for row in rows(*numbers))


def written_by(path: Path, attempt: str, owner: Callable[[], None] = lambda: None) -> RecordWriter:
    writer = RecordWriter(path)
    writer.own(attempt, owner, None)
    return writer


def read_bytes() -> int:
    """Return how many bytes this process has asked the system for, so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


class FullDisk:
    """`os.open` for writing fails while it is full; or after `room` bytes, in the middle of a line."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_full, self._open = False, os.open
        monkeypatch.setattr(record_writer.os, "open", self.open)

    def open(self, path: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        if self.is_full and flags & os.O_RDWR:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return self._open(path, flags, mode, **more)


@pytest.mark.parametrize("block", [1, 7, 1 << 16])
@pytest.mark.parametrize("torn", [b"", b'{"step": 9, "l'])
def test_lines_are_read_from_the_end(
    tmp_path: Path, block: int, torn: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("core.records.BLOCK", block)
    text = lines(1) + b"no json\n\n[1]\n" + lines(2, 3)
    (tmp_path / "a").write_bytes(text + torn)
    with open(tmp_path / "a", "rb") as file:
        found = list(lines_from_end(file, len(text + torn)))
    assert b"".join(text[line.start : line.stop] for line in reversed(found)) == text
    assert [line.row and line.row["step"] for line in found] == [3, 2, None, None, None, 1]


def test_the_last_rows_are_those_of_the_whole_without_reading_it(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_last(path, 3) == []
    path.write_bytes(lines(*range(1, 50_001), attempt="local.1") + b'{"step": 50001, "lo')
    before = read_bytes()
    assert [row["step"] for row in read_last(path, 3)] == [49_998, 49_999, 50_000]
    assert read_bytes() - before < path.stat().st_size / 4
    assert read_last(path, 10**6) == read_rows(path)


def test_a_broken_line_is_passed_over_and_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "incidents.jsonl"
    path.write_bytes(lines(1) + b'{"step": 2, "lo{"step": 3}\n\xff\n' + lines(4) + b'{"step": 5')
    assert steps(path) == [1, 4]
    assert capsys.readouterr().err == f"warning: {path}: 2 lines passed over that are no JSON objects\n"
    assert read_rows(tmp_path / "absent.jsonl") == []


def test_rows_beyond_the_checkpoint_and_a_torn_line_go(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(lines(1, 2, 3, 4, 5) + b'{"step": 6, "lo')
    inode = path.stat().st_ino
    RecordWriter(path).rewind(3)
    assert path.read_bytes() == lines(1, 2, 3)
    assert path.stat().st_ino == inode
    assert f"{path}: its last line was cut off" in capsys.readouterr().err
    RecordWriter(path).rewind(3)
    assert path.read_bytes() == lines(1, 2, 3)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("kept", [[4], [6], [4, 6], [5], []])
def test_some_rows_beyond_it_may_stay(tmp_path: Path, kept: list[int]) -> None:
    path = tmp_path / "incidents.jsonl"
    path.write_bytes(lines(1, 2, 4, 5, 6, attempt="local.1") + b'{"st')
    writer = written_by(path, "local.2")
    assert [row["step"] for row in writer.beyond(2)] == [4, 5, 6]
    writer.rewind(2, lambda row: row["step"] in kept)
    assert path.read_bytes() == lines(1, 2, *kept, attempt="local.1")
    writer.append(rows(9))
    assert steps(path) == [1, 2, *kept, 9]


@pytest.mark.parametrize("vouched", [True, False])
def test_a_start_reads_the_end_alone(tmp_path: Path, vouched: bool) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b"".join(encode({"step": step, "loss": [0.5] * 60}) for step in range(1, 50_001)))
    size = path.stat().st_size
    with open(path, "ab") as file:
        file.write(lines(50_001, 50_002) + b'{"step": 50003')
    writer = RecordWriter(path)
    writer.own("local.2", lambda: None, size if vouched else None)
    before = read_bytes()
    assert writer.last_step() == 50_002
    assert [row["step"] for row in writer.beyond(50_000)] == [50_001, 50_002]
    writer.rewind(50_000)
    writer.append(rows(50_001))
    assert writer.sync() == ""
    assert read_bytes() - before < 1 << 20 < size
    assert path.stat().st_size == size + len(lines(50_001, attempt="local.2"))


def test_a_record_shorter_than_its_checkpoint_says_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(lines(1, 2))
    writer = RecordWriter(path)
    writer.own("local.2", lambda: None, len(lines(1, 2, 3)))
    writer.rewind(3)
    assert path.read_bytes() == lines(1, 2)
    assert f"{path} has lost {len(lines(3))} bytes" in capsys.readouterr().err


def test_rows_wait_for_a_full_disk_and_are_written_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, disk = tmp_path / "metrics.jsonl", FullDisk(monkeypatch)
    writer = written_by(path, "local.1")
    writer.append(rows(1))
    disk.is_full = True
    writer.append(rows(2))
    writer.append(rows(3, 4))
    assert writer.sync() == f"{path}: 3 rows not on disk: No space left on device"
    assert (steps(path), writer.last_step()) == ([1], 4)
    disk.is_full = False
    assert writer.sync() == ""
    assert path.read_bytes() == lines(1, 2, 3, 4, attempt="local.1")
    said = capsys.readouterr().err.splitlines()
    assert said == [
        f"warning: {path} cannot be written: No space left on device; its rows wait in memory",
        f"{path} can be written again",
    ]


def test_a_line_that_fits_in_part_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, room = tmp_path / "metrics.jsonl", [10]
    real = record_writer.write

    def short(file: Any, data: memoryview) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        taken = real(file, data[: room[0]])
        room[0] -= taken
        return taken

    writer = written_by(path, "")
    writer.append(rows(1))
    monkeypatch.setattr(record_writer, "write", short)
    writer.append(rows(2, 3))
    assert path.read_bytes() == lines(1)
    assert "2 rows not on disk" in writer.sync()
    monkeypatch.undo()
    assert writer.sync() == ""
    assert path.read_bytes() == lines(1, 2, 3)


def test_rows_over_the_limit_are_lost_and_keep_the_run_from_being_saved(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, disk = tmp_path / "metrics.jsonl", FullDisk(monkeypatch)
    monkeypatch.setattr(record_writer, "MOST_WAITING", 3)
    writer = written_by(path, "")
    disk.is_full = True
    writer.append(rows(1, 2))
    writer.append(rows(3, 4, 5))
    assert "3 rows wait for the disk, and no more can" in capsys.readouterr().err
    disk.is_full = False
    assert writer.sync() == f"{path}: 2 rows lost, since the disk took none for too long"
    assert steps(path) == [1, 2, 3]
    writer.rewind(2)  # from a checkpoint all is as it was there
    writer.append(rows(3))
    assert writer.sync() == ""
    assert steps(path) == [1, 2, 3]


def test_the_owner_cuts_off_what_another_attempt_appends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "metrics.jsonl"
    older, newer = written_by(path, "local.1"), written_by(path, "local.2")
    older.append(rows(1, 2, 3))
    newer.rewind(1)
    newer.append(rows(2))
    with open(path, "ab") as file:  # it had asked, and then slept
        file.write(lines(4, attempt="local.1"))
    assert steps(path) == [1, 2]
    newer.append(rows(3))
    with open(path, "ab") as file:
        file.write(lines(5, attempt="local.1"))
    assert newer.sync() == ""
    assert path.read_bytes() == lines(1, attempt="local.1") + lines(2, 3, attempt="local.2")
    assert "(1 row) not written by this attempt" in capsys.readouterr().err


def test_who_has_lost_the_run_cuts_nothing_and_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, lost = tmp_path / "metrics.jsonl", []

    def require_owner() -> None:
        if lost:
            raise WorkError("taken over")

    older = written_by(path, "local.1", require_owner)
    older.append(rows(1))
    newer = written_by(path, "local.2")
    newer.rewind(1)
    newer.append(rows(2))
    lost.append(True)
    for act in (lambda: older.append(rows(2)), older.sync):
        with pytest.raises(WorkError, match="taken over"):
            act()
    older.watch()  # not yet
    monkeypatch.setattr(record_writer.time, "monotonic", lambda: 1e12)
    with pytest.raises(WorkError, match="taken over"):
        older.watch()
    assert steps(path) == [1, 2]


def test_a_number_that_is_not_finite_becomes_null(tmp_path: Path) -> None:
    publish(tmp_path / "a.jsonl", [{"step": 1, "parts": [1.0, float("nan")], "of": {"x": float("inf")}}])
    assert read_rows(tmp_path / "a.jsonl") == [{"step": 1, "parts": [1.0, None], "of": {"x": None}}]


def test_several_processes_may_append_and_a_torn_line_is_ended(tmp_path: Path) -> None:
    path = tmp_path / "new" / "quarantine.jsonl"
    append_shared(path, {"id": "a"})
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"id": ')
    found, end = read_from(path, 0)
    assert found == [{"id": "a"}]
    append_shared(path, {"id": "b"})
    assert read_from(path, end) == ([{"id": "b"}], path.stat().st_size)
    assert [json.loads(line) for line in path.read_text().splitlines()[::2]] == [{"id": "a"}, {"id": "b"}]


@pytest.mark.parametrize(
    ("line", "row"),
    [
        (b'{"step": 3, "loss": 1}', {"step": 3, "loss": 1}),
        (b'{"reason": "small"}', {"reason": "small"}),
        (b'{"step": "3"}', None),
        (b'{"step": 3.0}', None),
        (b'{"step": -1}', None),
        (b'{"step": true}', None),
        (b'{"step": 99999999999999999999}', None),
        (b"[1]", None),
        (b"\xff", None),
        (b"[" * 100_000, None),
    ],
)
def test_a_line_is_a_row_only_with_a_step_that_is_one(line: bytes, row: object) -> None:
    assert records.decode(line) == row


def test_a_number_of_a_row_is_finite_or_absent() -> None:
    row = {
        "a": 2,
        "b": 0.5,
        "text": "1",
        "list": [],
        "huge": 10**400,
        "inf": float("inf"),
        "nan": float("nan"),
    }
    assert {name: value for name in [*row, "none"] if (value := records.number(row, name)) is not None} == {
        "a": 2.0,
        "b": 0.5,
    }


def test_a_line_without_end_is_passed_over_in_bounded_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "BLOCK", 16)
    monkeypatch.setattr(records, "LONGEST", 64)
    path = tmp_path / "a.jsonl"
    path.write_bytes(
        b'{"a": 1}\n' + b"x" * 1000 + b'\n{"a": 2}\n' + b'{"b": "' + b"y" * 300 + b'"}\n{"a": 3}\n'
    )
    rows = [{"a": 1}, {"a": 2}, {"a": 3}]
    assert records.read_rows(path) == rows
    assert records.read_last(path, 9) == rows
    path.write_bytes(b'{"a": 1}\n' + b"x" * 1000)
    assert records.read_rows(path) == records.read_last(path, 9) == [{"a": 1}]
