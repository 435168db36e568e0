"""A checkpoint's note on records, and the warnings where they differ at the next start.

Run: pytest tests/core/train/test_record_tally.py
"""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.checkpoint.store import CheckpointStore
from core.distributed.ranks import World
from core.metrics.record_tally import Tally
from core.metrics.record_writer import RecordWriter
from core.records import BLOCK, encode
from core.train.run_records import RunRecords
from tests.core.toy_run import toy_trainer

STEPS = 5000  # rows of 54 bytes: several blocks


def rows(first: int, last: int) -> list[dict[str, Any]]:
    return [{"step": step, "loss": 1 / step} for step in range(first, last + 1)]


def records(path: Path, state: dict[str, Any] | None, step: int) -> tuple[RunRecords, RecordWriter]:
    """Return one record of a run that stands after `step` steps."""
    writer = RecordWriter(path)
    made = RunRecords([writer])
    made.own("local.1", lambda: None, state)
    writer.rewind(step)
    return made, writer


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "metrics.jsonl"


@pytest.fixture
def state(path: Path) -> dict[str, Any]:
    """Return the state of a checkpoint after STEPS steps; the record has three more rows."""
    made, writer = records(path, None, 0)
    writer.append(rows(1, STEPS))
    state = made.sizes()
    writer.append(rows(STEPS + 1, STEPS + 3))
    return json.loads(json.dumps(state))


def said(path: Path, state: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """Return the messages when the run goes on, and after all was read."""
    capsys.readouterr()
    made, _ = records(path, state, STEPS)
    at_once = capsys.readouterr().err
    thread = made.compare()
    assert thread is not None
    thread.join()
    return [at_once, capsys.readouterr().err]


def test_rows_bytes_and_a_running_hash_are_noted(path: Path, state: dict[str, Any]) -> None:
    noted = state["records"]["metrics.jsonl"]
    data = b"".join(path.read_bytes().splitlines(keepends=True)[:STEPS])
    assert len(data) > 3 * BLOCK
    last = zlib.crc32(data[-BLOCK:])
    assert noted == {"size": len(data), "rows": STEPS, "crc": zlib.crc32(data), "last": last}


def test_the_hash_runs_on_over_a_restart_without_reading_what_was_there(
    path: Path, state: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    made, writer = records(path, state, STEPS)
    writer.append(rows(STEPS + 1, STEPS + 7))
    taken: list[int] = []
    monkeypatch.setattr(Tally, "after", lambda self, data: taken.append(len(data)))
    noted = made.sizes()["records"]["metrics.jsonl"]
    assert taken == []
    data = path.read_bytes()
    assert noted == {"size": len(data), "rows": STEPS + 7, "crc": zlib.crc32(data), "last": noted["last"]}


def test_a_record_as_it_was_is_not_spoken_of(
    path: Path, state: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(path, state, capsys) == ["", ""]


def flipped(data: bytes, at: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str, str]] = {
    "last block": (lambda data: flipped(data, len(data) - 500), "are others than were written", "5000 rows"),
    "middle": (lambda data: flipped(data, len(data) // 3), "", r"\(5000 rows\) are others than were written"),
    "a row less": (
        lambda data: data.replace(b'\n{"step": 7,', b'  "step": 7,'),
        "",
        "hold 4999 rows, and held 5000",
    ),
    "cut": (lambda data: data[: len(data) // 2], "it has [0-9]+ bytes, and had [0-9]+", ""),
    "empty": (lambda data: b"", "it has 0 bytes, and had", ""),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_what_differs_is_said_and_the_run_goes_on(
    path: Path, state: dict[str, Any], damage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    change, at_once, later = DAMAGES[damage]
    path.write_bytes(change(path.read_bytes()))
    found = said(path, state, capsys)
    for text, expected in zip(found, (at_once, later), strict=True):
        assert bool(text) == bool(expected), found
        if expected:
            assert re.search(expected, text)
            assert text.startswith(f"warning: {path} was changed or damaged since its run was last saved: ")


def test_a_checkpoint_of_an_earlier_version_is_gone_on_with(
    path: Path, state: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """It noted bytes alone; the rest is counted beside training, and noted by the next checkpoint."""
    earlier = {"records": {"metrics.jsonl": state["records"]["metrics.jsonl"]["size"]}}
    made, writer = records(path, earlier, STEPS)
    assert made.sizes() == earlier
    thread = made.compare()
    assert thread is not None
    writer.append(rows(STEPS + 1, STEPS + 2))
    thread.join()
    writer.append(rows(STEPS + 3, STEPS + 3))
    data = path.read_bytes()
    noted = made.sizes()["records"]["metrics.jsonl"]
    assert (noted["size"], noted["rows"], noted["crc"]) == (len(data), STEPS + 3, zlib.crc32(data))


def test_a_run_notes_its_records_in_every_checkpoint(world: World, tmp_path: Path) -> None:
    for steps in (4, 8):  # the second goes on
        toy_trainer(tmp_path, world, steps=steps).fit()
        newest = CheckpointStore(tmp_path / "checkpoints").complete()[0].path
        noted = json.loads((newest / "state.json").read_text())["records"]["metrics.jsonl"]
        data = (tmp_path / "metrics.jsonl").read_bytes()
        assert (noted["size"], noted["rows"], noted["crc"]) == (len(data), steps, zlib.crc32(data))
        assert len(data) > len(encode({"step": 1}))
