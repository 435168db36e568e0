"""The loop on one rank. Run: pytest tests/core/train/test_trainer.py"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from core.batch import Batch
from core.checkpoint.store import CheckpointStore
from core.checkpoint.weights import load_weights
from core.distributed.ranks import World
from core.errors import UserError, WorkError
from core.faults import failpoints
from core.records import read_rows
from core.run import run_lock
from core.run.code import Code
from tests.core.toy_run import toy_trainer

TIMINGS = ("seconds", "samples_per_s", "data_wait", "tokens_per_s", "tflops_per_s", "ranks")


def rows(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in r.items() if k not in TIMINGS} for r in read_rows(folder / "metrics.jsonl")]


def assert_equal_runs(a: Path, b: Path) -> None:
    assert rows(a) == rows(b)
    for which in ("raw", "ema", "0.5"):
        one, other = load_weights(a, which), load_weights(b, which)
        assert all(torch.equal(one[name], other[name]) for name in one)


def test_a_run_leaves_what_it_promises(world: World, tmp_path: Path) -> None:
    toy_trainer(tmp_path, world, steps=7, save_every=3, keep_last=1, keep_every=3).fit()
    assert json.loads((tmp_path / "finished.json").read_text()) == {"step": 7, "samples_seen": 56}
    steps = [entry.step for entry in CheckpointStore(tmp_path / "checkpoints").complete()]
    assert steps == [7, 6, 3]
    written = read_rows(tmp_path / "metrics.jsonl")
    assert [r["step"] for r in written] == list(range(1, 8))
    always = "loss loss_by_decile grad_norm lr samples samples_per_s tokens_per_s tflops_per_s data_wait"
    assert {*always.split(), "order_hash", "distance"} <= {*written[0]}
    compared = (
        "count slowest fastest straggler memory_gb allocation_retries save_stall_s validate_s preview_s"
    )
    assert {*compared.split()} == {*written[-1]["ranks"]}
    assert written[-1]["loss"] < written[0]["loss"]


def test_a_finished_run_is_left_alone_however_its_process_ended(world: World, tmp_path: Path) -> None:
    failpoints.arm("run.finished:raise")
    with pytest.raises(WorkError, match=r"run\.finished"):
        toy_trainer(tmp_path, world, steps=2).fit()
    failpoints.arm("")
    assert json.loads((tmp_path / "finished.json").read_text())["step"] == 2
    before = rows(tmp_path)
    newest = CheckpointStore(tmp_path / "checkpoints").latest()
    toy_trainer(tmp_path, world, steps=2).fit()
    assert rows(tmp_path) == before
    assert CheckpointStore(tmp_path / "checkpoints").latest() == newest


@pytest.mark.parametrize("place", ["step.forward@step=5", "save.commit@step=6", "save.purge@step=6"])
def test_a_run_that_failed_anywhere_continues_exactly(world: World, tmp_path: Path, place: str) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    toy_trainer(whole, world, dropout=0.3, zero_stage=2).fit()
    failpoints.arm(f"{place}:raise")
    with pytest.raises(WorkError, match="failpoint"):
        toy_trainer(broken, world, dropout=0.3, zero_stage=2, max_failed_saves=1).fit()
    failpoints.arm("")
    toy_trainer(broken, world, dropout=0.3, zero_stage=2, seed=5).fit()
    assert_equal_runs(whole, broken)


def test_a_full_disk_is_survived_until_it_is_not(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failpoints.arm("save.tensor@step=3:enospc")
    toy_trainer(tmp_path, world, steps=6, save_every=3).fit()
    assert "No space left on device" in capsys.readouterr().err
    assert [entry.step for entry in CheckpointStore(tmp_path / "checkpoints").complete()] == [6]
    failpoints.arm("save.tensor:enospc")
    with pytest.raises(WorkError, match="No space left"):
        toy_trainer(tmp_path / "again", world, steps=6, save_every=3).fit()
    assert not list((tmp_path / "again" / "checkpoints").glob("step-*"))


def log_of(folder: Path) -> list[str]:
    """Return the lines of rank 0 without time and rank."""
    text = (folder / "logs" / "rank-0.log").read_text()
    return [line.split(" ", 1)[1].replace(" rank 0:", "") for line in text.splitlines()]


def test_a_run_logs_its_starts_and_says_when_the_code_is_another(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first, other = Code("a" * 40), Code("a" * 40, "changed12345")
    for steps, now in (3, first), (6, first), (9, other):
        monkeypatch.setattr(run_lock, "code", lambda now=now: now)
        toy_trainer(tmp_path, world, steps=steps).fit()
        newest = CheckpointStore(tmp_path / "checkpoints").latest()
        assert newest is not None
        assert json.loads((newest / "state.json").read_text())["code"] == now.as_dict()
    told = "continuing with commit aaaaaaaaaaaa with changes (changed12345); the checkpoint was made with "
    assert capsys.readouterr().err.count("continuing with commit") == 1
    lines = log_of(tmp_path)
    assert [line for line in lines if "start" in line] == [
        "INFO start 1 (local.1) with commit aaaaaaaaaaaa",
        "INFO start 2 (local.2) with commit aaaaaaaaaaaa",
        "INFO start 3 (local.3) with commit aaaaaaaaaaaa with changes (changed12345)",
    ]
    assert f"WARNING {told}commit aaaaaaaaaaaa" in lines
    assert "INFO continuing after step 6 of 9" in lines
    assert json.loads((tmp_path / "run.lock").read_text())["code"] == other.as_dict()


def test_a_step_has_one_number_everywhere(world: World, tmp_path: Path) -> None:
    """The second step is 2 to a failpoint in it and in its save, a heartbeat, a row and a checkpoint."""
    failpoints.arm("step.end@step=2:raise")
    trainer = toy_trainer(tmp_path, world, steps=3, save_every=1)
    with pytest.raises(WorkError, match="failpoint"):
        trainer.fit()
    assert (trainer.step, trainer.phases.step) == (2, 2)
    failpoints.arm("save.receipt@step=2:raise")
    with pytest.raises(WorkError, match="failpoint"):
        toy_trainer(tmp_path, world, steps=3, save_every=1, max_failed_saves=1).fit()
    assert [row["step"] for row in rows(tmp_path)][:2] == [1, 2]
    assert [entry.step for entry in CheckpointStore(tmp_path / "checkpoints").complete()] == [1]
    failpoints.arm("step.validate@step=2:raise")
    trainer = toy_trainer(tmp_path, world, steps=3, validate_every=1)
    with pytest.raises(WorkError, match="failpoint"):
        trainer.fit()
    assert trainer.phases.step == 2


def test_samples_of_weight_zero_count_for_nothing(world: World, tmp_path: Path) -> None:
    toy_trainer(tmp_path / "a", world, steps=2, bad=3, precision="fp32").fit()
    toy_trainer(tmp_path / "b", world, steps=2, bad=3, precision="fp32", micro_batch=2).fit()
    a, b = rows(tmp_path / "a"), rows(tmp_path / "b")
    assert [r["samples"] for r in a] == [7.0, 7.0]
    assert all(r["loss"] < 10 for r in a)  # the bad sample's loss would be 10^4
    for one, other in zip(a, b, strict=True):
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-5)
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-6)


def test_a_skipped_step_is_recorded_and_too_many_end_the_run(world: World, tmp_path: Path) -> None:
    failpoints.arm("step.loss@step=2:nan")
    toy_trainer(tmp_path / "one", world, steps=3).fit()
    written = rows(tmp_path / "one")
    assert [r["applied"] for r in written] == [True, False, True]
    assert written[1]["grad_norm"] is None
    newest = CheckpointStore(tmp_path / "one" / "checkpoints").latest()
    assert newest is not None
    state = json.loads((newest / "state.json").read_text())
    assert (state["step"], state["updates"], state["skipped"]) == (3, 2, 1)
    failpoints.arm("step.loss:nan")
    with pytest.raises(WorkError, match="4 steps in a row had non-finite gradients"):
        toy_trainer(tmp_path / "all", world, steps=9, max_skipped=4).fit()


def test_other_data_is_refused_on_resume(world: World, tmp_path: Path) -> None:
    toy_trainer(tmp_path, world, steps=2).fit()
    trainer = toy_trainer(tmp_path, world, steps=4)
    trainer.saver._identity["data"] = "other"
    with pytest.raises(UserError, match="data=other: expected toy"):
        trainer.fit()


def test_other_versions_are_told_of_on_resume(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    toy_trainer(tmp_path, world, steps=2).fit()
    toy_trainer(tmp_path, world, steps=3).fit()
    assert "warning" not in capsys.readouterr().err
    monkeypatch.setattr("core.run.versions._version", lambda name: "1.2.3" if name == "torch" else "0.0.1")
    toy_trainer(tmp_path, world, steps=4).fit()
    said = capsys.readouterr().err
    assert f"torch {torch.__version__} -> 1.2.3" in said
    assert "to rounding, not to the bit" in said


def test_data_that_ends_early_is_an_error(world: World, tmp_path: Path) -> None:
    trainer = toy_trainer(tmp_path, world, steps=9)
    endless = trainer.data.batches

    def two(first: int) -> Iterator[list[Batch]]:
        return (parts for _, parts in zip(range(2), endless(first), strict=False))

    trainer.data = replace(trainer.data, batches=two)
    with pytest.raises(WorkError, match="the data ended before step 3 of 9"):
        trainer.fit()


def test_continuing_on_another_stage_follows_the_same_curve(world: World, tmp_path: Path) -> None:
    whole, moved = tmp_path / "whole", tmp_path / "moved"
    toy_trainer(whole, world, precision="fp32", zero_stage=1).fit()
    failpoints.arm("step.end@step=7:raise")
    with pytest.raises(WorkError):
        toy_trainer(moved, world, precision="fp32", zero_stage=1).fit()
    failpoints.arm("")
    toy_trainer(moved, world, precision="fp32", zero_stage=3, micro_batch=4).fit()
    for one, other in zip(rows(whole), rows(moved), strict=True):
        assert math.isclose(one["loss"], other["loss"], rel_tol=1e-5)
