"""Run: pytest tests/core/faults/test_watchdog.py"""

from __future__ import annotations

import itertools
import json
import os
import threading
import time
from pathlib import Path

import pytest
import torch

from core.distributed.ranks import World
from core.faults import heartbeats, watchdog
from core.faults.heartbeats import Heartbeat, path_of, places, shortened
from core.faults.watchdog import EXIT_STATUS, Limits, Watchdog, dump_collectives, earlier_than_groups
from core.metrics.phases import MEASURED, Phases

WORLD = World(1, 3, 1, torch.device("cpu"))


class Ends:
    """Replaces os._exit."""

    def __init__(self) -> None:
        self.called = threading.Event()
        self.status = 0

    def __call__(self, status: int) -> None:
        self.status = status
        self.called.set()


def hang_here(ends: Ends) -> None:
    assert ends.called.wait(20)


def test_a_hang_ends_the_process_with_stacks_and_places(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    beat = {"step": 3, "phase": "data", "since_s": 70.0, "ids": [31, 32], "time": time.time() - 60}
    (tmp_path / "heartbeat-rank-0.json").write_text(json.dumps(beat))
    phases, ends = Phases(), Ends()
    phases.step, phases.ids = 4, [40]
    phases.enter("update")
    with Watchdog(tmp_path, phases, WORLD, Limits(0.2), end=ends):
        hang_here(ends)
    assert ends.status == EXIT_STATUS
    report = (tmp_path / "hang-rank-1.txt").read_text()
    assert "rank 1: nothing has moved for 0 s in step 4 (update)" in report
    assert "rank 0: step 3, data for 70 s; no heartbeat for 60 s; samples 31, 32" in report
    assert "rank 2 has left no heartbeat" in report
    assert "in hang_here" in report  # the stack of the main thread
    assert "hang-rank-1.txt" in capsys.readouterr().err


def test_a_process_that_moves_is_left_alone(tmp_path: Path) -> None:
    phases, ends = Phases(), Ends()
    with Watchdog(tmp_path, phases, WORLD, Limits(2.0), end=ends):
        for _ in range(30):
            phases.enter("forward")
            time.sleep(0.02)
        assert json.loads((tmp_path / "heartbeat-rank-1.json").read_text())["phase"] == "forward"
    assert not ends.called.is_set()
    assert not (tmp_path / "heartbeat-rank-1.json").exists()


def overdue(
    tmp_path: Path, phase: str, silence_s: float, save_s: float | None, **present: float
) -> tuple[str, float]:
    """Return a watchdog's report (600 s, saves 3600 s) on a phase so long, and the limit it publishes."""
    phases = Phases(lambda: silence_s)
    phases.phase, phases.since, phases.patience = phase, 0.0, present.get("patience", 1.0)
    watched = Watchdog(tmp_path, phases, WORLD, Limits(600.0, 3600.0), lambda: save_s)
    watched._saved = -1e9  # no save was ever under way
    return watched._overdue(), float(str(watched._beat()["limit_s"]))


def test_a_save_has_a_limit_of_its_own(tmp_path: Path) -> None:
    """It counts from the last piece, whether the loop waits for the save or goes on; phases keep theirs."""
    assert overdue(tmp_path, "save", 9000.0, 3599.0) == ("", 3600.0)
    hangs = "the save under way has written nothing for 3601 s"
    assert overdue(tmp_path, "save", 9000.0, 3601.0) == (hangs, 3600.0)
    assert overdue(tmp_path, "forward", 1.0, 3601.0) == (hangs, 600.0)
    assert overdue(tmp_path, "save", 3599.0, None)[0] == ""
    assert "nothing has moved for 3601 s in step 1 (save)" in overdue(tmp_path, "save", 3601.0, None)[0]
    assert "nothing has moved for 601 s in step 1 (forward)" in overdue(tmp_path, "forward", 601.0, 0.0)[0]


def test_what_comes_before_the_first_step_has_ended_may_take_longer(tmp_path: Path) -> None:
    assert overdue(tmp_path, "forward", 3599.0, None, patience=6.0) == ("", 3600.0)
    assert "nothing has moved for 3601 s" in overdue(tmp_path, "forward", 3601.0, None, patience=6.0)[0]


def test_the_time_since_a_save_counts_from_its_end(tmp_path: Path) -> None:
    """The loop has waited for hours for a slow save, and now goes on."""
    phases, saves = Phases(lambda: 9000.0), iter([10.0, None])
    phases.phase, phases.since = "save", 0.0
    watched = Watchdog(tmp_path, phases, WORLD, Limits(600.0, 3600.0), lambda: next(saves))
    assert [watched._overdue(), watched._overdue()] == ["", ""]


def test_storage_that_does_not_answer_ends_the_process_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither heartbeats nor the report may keep the process from ending."""
    never = threading.Event()
    phases, ends = Phases(), Ends()
    monkeypatch.setattr(watchdog, "PERIOD_S", 0.1)
    monkeypatch.setattr(watchdog, "places", lambda *_: never.wait() and [])
    with Watchdog(tmp_path, phases, WORLD, Limits(0.2), end=ends) as watched:
        monkeypatch.setattr(watched._heartbeat, "_present", lambda: {"is_late": never.wait()})
        hang_here(ends)
        never.set()
    assert "rank 1: nothing has moved for 0 s in step 1 (other)" in capsys.readouterr().err


def test_a_full_disk_is_no_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    heartbeat = Heartbeat(tmp_path, 0, dict, 5.0)
    path = path_of(tmp_path, 0)
    path.write_text("{}")
    os.utime(path, (1, 1))

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(heartbeats.os, "write", full)
    heartbeat._beat()
    assert path.stat().st_mtime > 1
    assert list(tmp_path.iterdir()) == [path]


def test_the_rank_that_is_behind_comes_first(tmp_path: Path) -> None:
    for rank, step in enumerate([5, 4, 5]):
        beat = {"step": step, "phase": "update", "since_s": 1.0, "ids": [], "time": 100.0}
        (tmp_path / f"heartbeat-rank-{rank}.json").write_text(json.dumps(beat))
    assert places(tmp_path, 3, 101.0, 15.0)[0].text.startswith("rank 1: step 4, update")


def test_of_many_ranks_one_speaks_with_eight_lines_and_a_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All ranks notice the hang; the heartbeats are read once, and what is said does not grow with ranks."""
    read, ranks = [], 300
    for rank in range(ranks):
        step = 4 if rank == 17 else 5 + rank % 2
        beat = {"step": step, "phase": "update", "since_s": 1.0, "ids": [rank], "time": time.time()}
        (tmp_path / f"heartbeat-rank-{rank}.json").write_text(json.dumps(beat))
    monkeypatch.setattr(heartbeats, "path_of", lambda logs, rank: read.append(rank) or path_of(logs, rank))
    for rank in (3, 0, 7):
        world = World(rank, ranks, 0, torch.device("cpu"))
        Watchdog(tmp_path, Phases(), world, Limits(600.0))._report(f"rank {rank}: hangs")
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 + 8 + 1
    assert said[0].startswith("rank 3: hangs")
    assert said[1].startswith("rank 17: step 4")
    assert said[-1] == "and 292 other ranks: 143 in step 5, 149 in step 6"
    assert sorted(read) == sorted([*range(ranks), 3, 0, 7])  # by one; and each watchdog names its own
    assert (tmp_path / "hang-rank-3.txt").read_text().count("update for") == ranks
    for rank in (0, 7):
        text = (tmp_path / f"hang-rank-{rank}.txt").read_text()
        assert "see the rank that hang-reported-by.txt names" in text
        assert "in _write_down" in text
    heartbeats.open_report(tmp_path)
    assert heartbeats.claim_report(tmp_path, 7)


def test_the_others_are_counted_by_step_in_few_words() -> None:
    found = [heartbeats.Place(n, n - 1, 0.0, f"rank {n}") for n in range(14)]
    assert shortened(found[:8]) == [f"rank {n}" for n in range(8)]
    assert shortened(found)[8:] == ["and 6 other ranks: 1 in step 7, 1 in step 8, 4 in later ones"]
    none = [heartbeats.Place(n, -1, 0.0, f"rank {n}") for n in range(9)]
    assert shortened(none)[8:] == ["and 1 other rank: 1 without a heartbeat"]


def test_a_heartbeat_is_one_opening_of_a_file_every_thirty_seconds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file is made, renamed or removed for it, and a short one leaves nothing of a long one before it."""
    shown: dict[str, object] = {"ids": [2**63] * 4}
    heartbeat = Heartbeat(tmp_path, 0, lambda: shown, 5.0)
    heartbeat._beat()
    before, opened, really = path_of(tmp_path, 0).stat().st_ino, [], os.open
    monkeypatch.setattr(heartbeats.os, "open", lambda *words: opened.append(words) or really(*words))
    for name in ("rename", "replace", "unlink", "mkdir", "utime"):
        monkeypatch.setattr(heartbeats.os, name, None)
    shown["ids"] = []
    heartbeat._beat()
    assert len(opened) == 1
    monkeypatch.undo()
    assert path_of(tmp_path, 0).stat().st_ino == before
    assert json.loads(path_of(tmp_path, 0).read_text())["ids"] == []
    watched = Watchdog(tmp_path, Phases(), WORLD, Limits(600.0, 3600.0))
    assert watched._heartbeat._period_s == 30


def test_phases_add_up() -> None:
    now = iter([0.0, 1.0, 3.0, 7.0, 10.0, 10.0])
    phases = Phases(lambda: next(now))
    for phase in ("data", "forward", "data"):
        phases.enter(phase)
    spent = dict(zip(MEASURED, phases.take(), strict=True))
    assert (spent["other"], spent["data"], spent["forward"], spent["save"]) == (1.0, 5.0, 4.0, 0.0)
    assert sum(phases.take()) == 0.0


def test_own_work_is_counted_apart_from_waiting() -> None:
    """It is counted in the phases where ranks compute, by a clock that stops while the thread waits."""
    walls, owns = itertools.count(), iter([0.0, 0.5, 2.5, 3.0, 3.25, 10.0, 11.0])
    phases = Phases(lambda: float(next(walls)), lambda: next(owns))
    for phase in ("forward", "backward", "update"):
        phases.enter(phase)
    spent = dict(zip(MEASURED, phases.take(), strict=True))
    assert (spent["forward"], spent["backward"], spent["computing"]) == (1.0, 1.0, 2.5)
    phases.enter("data")
    assert dict(zip(MEASURED, phases.take(), strict=True))["computing"] == 0.0


def test_the_watchdog_is_earlier_than_process_groups() -> None:
    alone = World(0, 1, 0, torch.device("cpu"))
    assert earlier_than_groups(600.0, 1800.0, WORLD) == 600.0
    assert earlier_than_groups(600.0, 60.0, WORLD) == 45.0
    assert earlier_than_groups(0.0, 60.0, WORLD) == 0.0
    assert earlier_than_groups(600.0, 60.0, alone) == 600.0


def test_the_recorder_of_nccl_is_read_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build without CUDA lacks its function, and on CUDA the other recorder stays empty."""
    module = torch._C._distributed_c10d
    monkeypatch.setattr(module, "_dump_nccl_trace_json", lambda: b'{"entries": [1]}', raising=False)
    monkeypatch.setattr(module, "_dump_fr_trace_json", lambda: b'{"entries": []}')
    dump_collectives(tmp_path, 3)
    assert [path.name for path in tmp_path.iterdir()] == ["collectives-nccl-rank-3.json"]
