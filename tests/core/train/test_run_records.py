"""The records of whole runs: full disks, torn lines, two attempts.

Run: pytest tests/core/train/test_run_records.py
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from core.checkpoint.store import CheckpointStore
from core.distributed.ranks import World
from core.errors import WorkError
from core.faults import failpoints
from core.metrics import record_writer
from core.records import encode, read_rows
from core.root import ROOT
from core.train.trainer import Trainer
from tests.core.ranks import ForkedRank, finish, fork_ranks
from tests.core.toy_run import toy_trainer
from tests.core.train.test_trainer import assert_equal_runs

RECORDS = ("metrics.jsonl", "validation.jsonl", "incidents.jsonl")
TOY_RUN = str(ROOT / "tests" / "core" / "toy_run.py")
ELSEWHERE = f"""
import runpy, socket
socket.gethostname = lambda: "another-host"
runpy.run_path({TOY_RUN!r}, run_name="__main__")"""


def before_step(trainer: Trainer, acts: dict[int, Callable[[], None]]) -> Trainer:
    """Do something when the data of a step (0, 1, ...) are asked for."""
    batches = trainer.data.batches

    def watched(first: int) -> Iterator[Any]:
        for step, parts in enumerate(batches(first), first):
            acts.get(step, lambda: None)()
            yield parts

    trainer.data = replace(trainer.data, batches=watched)
    return trainer


def raw_steps(path: Path) -> list[int]:
    """Return the steps of all lines that are in the file."""
    return [json.loads(line)["step"] for line in path.read_bytes().splitlines()]


def attempts(path: Path) -> list[str]:
    return [json.loads(line)["attempt"] for line in path.read_bytes().splitlines()]


def saved(folder: Path) -> list[int]:
    return sorted(entry.step for entry in CheckpointStore(folder / "checkpoints").complete())


class FullDisk:
    """A disk that takes no rows while it is full, and all else."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_full, real = False, record_writer.write

        def write(file: Any, data: memoryview) -> int:
            if self.is_full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(file, data)

        monkeypatch.setattr(record_writer, "write", write)

    def fill(self) -> None:
        self.is_full = True

    def free(self) -> None:
        self.is_full = False


def test_a_full_disk_delays_rows_and_fails_saves(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"steps": 12, "validate_every": 4, "keep_last": 9}
    toy_trainer(tmp_path / "whole", world, **options).fit()
    disk, run = FullDisk(monkeypatch), tmp_path / "run"
    before_step(toy_trainer(run, world, **options), {4: disk.fill, 10: disk.free}).fit()
    assert_equal_runs(tmp_path / "whole", run)
    assert read_rows(run / "validation.jsonl") == read_rows(tmp_path / "whole" / "validation.jsonl")
    assert saved(run) == [3, 12]  # not 6 and 9
    told = capsys.readouterr().err
    metrics = run / "metrics.jsonl"
    assert f"warning: {metrics} cannot be written: No space left on device; its rows wait in memory" in told
    assert f"warning: {metrics}: 2 rows not on disk: No space left on device; going on (1 of 3 f" in told
    assert f"{metrics} can be written again" in told


@pytest.mark.parametrize(("steps", "full_from"), [(30, 4), (8, 6)])
def test_saves_that_fail_for_rows_end_the_run_at_the_limit_and_at_the_end(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, full_from: int
) -> None:
    disk, run = FullDisk(monkeypatch), tmp_path / "run"
    trainer = before_step(toy_trainer(run, world, steps=steps), {full_from: disk.fill})
    with pytest.raises(WorkError, match=r"run/metrics\.jsonl: \d rows not on disk: No space left on device"):
        trainer.fit()
    disk.free()
    toy_trainer(run, world, steps=steps).fit()
    assert raw_steps(run / "metrics.jsonl") == list(range(1, steps + 1))


@pytest.mark.parametrize("name", RECORDS)
def test_a_torn_line_of_any_record_blocks_no_start(world: World, tmp_path: Path, name: str) -> None:
    for steps, bad in (6, 4), (9, 8), (12, 11):
        failpoints.arm(f"step.loss@step={bad}:nan")
        toy_trainer(tmp_path, world, steps=steps, validate_every=3).fit()
        (tmp_path / "finished.json").unlink()
        with open(tmp_path / name, "rb+") as file:
            file.truncate(file.seek(-20, os.SEEK_END))
    failpoints.arm("")
    toy_trainer(tmp_path, world, steps=15, validate_every=3).fit()
    assert all(json.loads(line) for each in RECORDS for line in (tmp_path / each).read_text().splitlines())
    assert raw_steps(tmp_path / "metrics.jsonl")[-3:] == [13, 14, 15]


def test_incidents_with_a_row_on_top_of_a_torn_one_are_read(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An earlier version left them so."""
    failpoints.arm("step.loss@step=2:nan")
    toy_trainer(tmp_path, world, steps=3).fit()
    path = tmp_path / "incidents.jsonl"
    first = path.read_bytes()
    path.write_bytes(first + first[:-20] + first + b'{"kind": "skip')
    failpoints.arm("")
    toy_trainer(tmp_path, world, steps=6).fit()
    assert path.read_bytes() == first
    assert f"{path}: 1 line passed over that are no JSON objects" in capsys.readouterr().err


def test_a_start_reads_the_ends_of_the_records_alone(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It does whichever way the end is found: by the length that the checkpoint notes, or by steps."""
    sizes = []
    real = os.pread
    monkeypatch.setattr(os, "pread", lambda *place: sizes.append(place[1]) or real(*place))
    for noted in (True, False):
        run = tmp_path / str(noted)
        failpoints.arm("step.loss@step=2:nan")
        toy_trainer(run, world, steps=6, validate_every=3).fit()
        failpoints.arm("")
        state = CheckpointStore(run / "checkpoints").complete()[0].path / "state.json"
        assert set(json.loads(state.read_text())["records"]) == set(RECORDS)
        for name in RECORDS:
            row = read_rows(run / name)[0] | {"step": 1}
            old = encode(row) * (4_000_000 // len(encode(row)))
            (run / name).write_bytes((b"" if noted else old) + (run / name).read_bytes())
        sizes.clear()
        toy_trainer(run, world, steps=9, validate_every=3).fit()
        assert sum(sizes) < 1_000_000
        assert raw_steps(run / "metrics.jsonl")[-4:] == [6, 7, 8, 9]


def test_an_attempt_that_has_lost_the_run_leaves_the_record_alone(world: World, tmp_path: Path) -> None:
    """The older one sleeps before its 6th step until the newer one has finished, or is in the middle."""
    whole, run = tmp_path / "whole", tmp_path / "run"
    options: dict[str, Any] = {"steps": 10, "validate_every": 2}
    toy_trainer(whole, world, **options).fit()
    newer = toy_trainer(run, world, **options)
    older = before_step(toy_trainer(run, world, **options), {5: newer.fit})
    with pytest.raises(WorkError, match=r"taken over by attempt local\.2"):
        older.fit()
    assert_equal_runs(whole, run)
    assert raw_steps(run / "metrics.jsonl") == list(range(1, 11))
    assert attempts(run / "metrics.jsonl") == ["local.1"] * 3 + ["local.2"] * 7
    assert (raw_steps(run / "validation.jsonl"), attempts(run / "validation.jsonl")) == (
        [2, 4, 6, 8, 10],
        ["local.1"] + ["local.2"] * 4,
    )


def test_rows_of_a_lost_attempt_go_at_the_next_write(world: World, tmp_path: Path) -> None:
    """The older one had checked whose the run is, slept, and writes: before, between and after the rows."""
    whole, run, metrics = tmp_path / "whole", tmp_path / "run", tmp_path / "run" / "metrics.jsonl"
    toy_trainer(whole, world, steps=9).fit()
    toy_trainer(run, world, steps=3).fit()
    (run / "finished.json").unlink()

    def appends(step: int) -> Callable[[], None]:
        def append() -> None:
            with open(metrics, "ab") as file:
                file.write(encode({"step": step, "loss": 0.0, "attempt": "local.1"}))

        return append

    acts = {3: appends(4), 4: appends(5), 5: appends(6), 6: appends(4), 8: appends(9)}
    before_step(toy_trainer(run, world, steps=9), acts).fit()
    appends(10)()  # after the end there is nobody to cut it off
    assert raw_steps(metrics) == [*range(1, 10), 10]
    assert [row["step"] for row in read_rows(metrics)] == list(range(1, 10))
    metrics.write_bytes(b"".join(metrics.read_bytes().splitlines(keepends=True)[:-1]))
    assert_equal_runs(whole, run)


@pytest.mark.multiprocess
def test_of_two_hosts_one_goes_on_and_every_step_is_recorded_once(tmp_path: Path) -> None:
    words = [f"--run={tmp_path}", "steps=60", "save_every=5", "validate_every=10"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(ROOT)}
    pipes: dict[str, Any] = {"stdout": -1, "stderr": subprocess.STDOUT, "text": True, "env": environment}
    older = subprocess.Popen([sys.executable, "-c", ELSEWHERE, *words, "fault=step.data:sleep=0.2"], **pipes)
    try:
        while not saved(tmp_path):
            assert older.poll() is None, older.communicate()[0]
            time.sleep(0.02)
        older.send_signal(signal.SIGSTOP)  # or it may be through before the other one has started
        with subprocess.Popen([sys.executable, TOY_RUN, *words], **pipes) as newer:
            while newer.poll() is None and b"local.2" not in (tmp_path / "metrics.jsonl").read_bytes():
                time.sleep(0.02)
            older.send_signal(signal.SIGCONT)
            said, _ = newer.communicate(timeout=300)
        assert newer.returncode == 0, said
        told, _ = older.communicate(timeout=60)
    finally:
        older.kill()
    assert older.returncode == 1
    assert "taken over by attempt local.2" in told
    assert raw_steps(tmp_path / "metrics.jsonl") == list(range(1, 61))
    assert raw_steps(tmp_path / "validation.jsonl") == list(range(10, 61, 10))
    assert set(attempts(tmp_path / "metrics.jsonl")) == {"local.1", "local.2"}


def wait_until_stuck(folder: Path) -> None:
    """Wait until the run has been for a while at the place where its fault holds it."""
    limit, beat = time.monotonic() + 120, {"phase": "", "since_s": 0.0}
    while beat["phase"] not in ("forward", "validate") or beat["since_s"] < 0.5:
        assert time.monotonic() < limit
        time.sleep(0.02)
        with contextlib.suppress(FileNotFoundError):
            beat = json.loads((folder / "logs" / "heartbeat-rank-0.json").read_text())


@pytest.mark.multiprocess
def test_an_attempt_ends_in_the_midst_of_long_work_when_a_newer_one_takes_over(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On two hosts; the older one is in a step, or in a validation, that does not end."""
    options = "steps=8 validate_every=3 watchdog_s=300 save_timeout_s=16 fence_s=0.1"
    faults = {"step": "step.forward@step=5:sleep=1000", "validation": "step.validate@step=3:sleep=1000"}
    older: dict[str, ForkedRank] = {}
    try:
        for name, fault in faults.items():
            words = f"--run={tmp_path}/{name} {options} fault={fault}".split()
            (older[name],) = fork_ranks(1, tmp_path / f"out-{name}", *words)
        for name in older:
            wait_until_stuck(tmp_path / name)
        monkeypatch.setenv("SLURMD_NODENAME", "another-host")
        for name, rank in older.items():
            toy_trainer(tmp_path / name, world, steps=8, validate_every=3).fit()
            ((status, text),) = finish([rank])
            assert status == 1
            owner = f"attempt local.2 (process {os.getpid()} on another-host)"
            assert f"{tmp_path / name} was taken over by {owner}; this attempt writes nothing more" in text
            assert raw_steps(tmp_path / name / "metrics.jsonl") == list(range(1, 9))
            assert raw_steps(tmp_path / name / "validation.jsonl") == [3, 6]
            assert set(attempts(tmp_path / name / "metrics.jsonl")[3:]) == {"local.2"}
    finally:
        for rank in older.values():
            rank.kill()
