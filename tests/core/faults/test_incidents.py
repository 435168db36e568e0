"""Steps that go wrong, on one rank. Run: pytest tests/core/faults/test_incidents.py"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from core.checkpoint.store import CheckpointStore
from core.checkpoint.weights import load_weights
from core.distributed.ranks import World
from core.errors import WorkError
from core.faults import failpoints, spikes
from core.records import read_rows
from tests.core.toy_run import toy_trainer
from tests.core.train.test_trainer import assert_equal_runs, rows

BAD_STEPS = "step.loss@step=5:nan;step.loss@step=6:nan"


def incidents(folder: Path) -> list[dict[str, Any]]:
    return read_rows(folder / "incidents.jsonl")


def newest_state(folder: Path) -> dict[str, Any]:
    newest = CheckpointStore(folder / "checkpoints").latest()
    assert newest is not None
    state: dict[str, Any] = json.loads((newest / "state.json").read_text())
    return state


@pytest.mark.parametrize("stage", [1, 3, "fsdp2-2"])
def test_a_skipped_step_names_sample_decile_and_module(world: World, tmp_path: Path, stage: Any) -> None:
    toy_trainer(tmp_path, world, steps=3, poison=13, micro_batch=4, zero_stage=stage).fit()
    (row,) = incidents(tmp_path)
    (found,) = row["culprits"]
    assert (row["kind"], row["step"], found["rank"], found["module"]) == ("skipped", 2, 0, "first")
    ((sample),) = found["samples"]
    assert sample["id"] == 13
    assert 0 <= sample["decile"] <= 9
    assert [r["applied"] for r in rows(tmp_path)] == [True, False, True]


def test_looking_for_the_culprit_changes_nothing(world: World, tmp_path: Path) -> None:
    """The network's `calls` buffer counts forward passes: 1 in each of three steps."""
    toy_trainer(tmp_path, world, steps=3, poison=13).fit()
    assert load_weights(tmp_path, "raw")["calls"].tolist() == [3.0, 3.0, 3.0]


def test_a_bad_gradient_behind_finite_losses_is_said_to_be_one(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failpoints.arm("step.loss@step=2:nan")
    toy_trainer(tmp_path, world, steps=2).fit()
    assert f"(but were when it was repeated; its samples are in {tmp_path}" in capsys.readouterr().err
    (row,) = incidents(tmp_path)
    assert row["culprits"][0]["module"] is None
    assert [sample["id"] for sample in row["culprits"][0]["samples"]] == list(range(8, 16))


def test_a_run_rolls_back_passes_over_and_goes_on(world: World, tmp_path: Path) -> None:
    failpoints.arm(BAD_STEPS)
    toy_trainer(tmp_path, world, steps=9, max_skipped=2, on_skipped="rollback").fit()
    assert [r["kind"] for r in incidents(tmp_path)] == ["skipped", "skipped", "rollback"]
    written = rows(tmp_path)
    assert [r["step"] for r in written] == list(range(1, 10))
    assert [r["step"] for r in written if r.get("passed_over")] == [4, 5, 6]
    state = newest_state(tmp_path)
    assert (state["step"], state["updates"], state["samples_seen"]) == (9, 6, 48)
    assert state["passed_over"] == [4, 5, 6]


@pytest.mark.parametrize(
    "place", ["rollback.recorded@step=6", "step.end@step=8", "step.forward@step=7", "save.commit@step=9"]
)
def test_a_run_that_rolled_back_continues_exactly(world: World, tmp_path: Path, place: str) -> None:
    options: dict[str, Any] = {"steps": 9, "max_skipped": 2, "on_skipped": "rollback", "zero_stage": 2}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    failpoints.arm(BAD_STEPS)
    toy_trainer(whole, world, **options).fit()
    failpoints.arm(f"{BAD_STEPS};{place}:raise")
    with pytest.raises(WorkError, match="failpoint"):
        toy_trainer(broken, world, max_failed_saves=1, **options).fit()
    failpoints.arm("")  # the bad steps are not tried again
    toy_trainer(broken, world, **options).fit()
    assert_equal_runs(whole, broken)
    assert incidents(whole) == incidents(broken)
    assert newest_state(whole)["passed_over"] == newest_state(broken)["passed_over"]


def test_a_checkpoint_alone_tells_what_is_still_to_be_passed_over(world: World, tmp_path: Path) -> None:
    """Steps 6 to 8 are bad: the run goes back to 3, and saves 6 amid the steps that are left out."""
    options: dict[str, Any] = {"steps": 11, "max_skipped": 3, "on_skipped": "rollback"}
    bad = ";".join(f"step.loss@step={step}:nan" for step in (6, 7, 8))
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    failpoints.arm(bad)
    toy_trainer(whole, world, **options).fit()
    failpoints.arm(f"{bad};step.end@step=9:raise")
    with pytest.raises(WorkError, match="failpoint"):
        toy_trainer(broken, world, **options).fit()
    state = newest_state(broken)
    assert (state["step"], state["passed_over"]) == (6, [4, 5, 6, 7, 8])
    (broken / "incidents.jsonl").unlink()
    failpoints.arm("")
    toy_trainer(broken, world, **options).fit()
    assert_equal_runs(whole, broken)


def test_rollbacks_are_limited(world: World, tmp_path: Path) -> None:
    failpoints.arm(";".join(f"step.loss@step={step}:nan" for step in range(5, 41)))
    trainer = toy_trainer(tmp_path, world, steps=30, max_skipped=2, on_skipped="rollback", max_rollbacks=2)
    with pytest.raises(WorkError, match=r"2 steps in a row .* up to 10 after 2 rollbacks; see .*incidents"):
        trainer.fit()
    assert sum(r["kind"] == "rollback" for r in incidents(tmp_path)) == 2


def test_without_a_checkpoint_there_is_no_way_back(world: World, tmp_path: Path) -> None:
    failpoints.arm("step.loss:nan")
    with pytest.raises(WorkError, match="there is no checkpoint to go back to"):
        toy_trainer(tmp_path, world, max_skipped=2, on_skipped="rollback").fit()


def test_incidents_of_repeated_steps_are_recorded_once(world: World, tmp_path: Path) -> None:
    failpoints.arm("step.loss@step=5:nan;step.end@step=5:raise")
    with pytest.raises(WorkError):
        toy_trainer(tmp_path, world, steps=6).fit()
    assert [r["step"] for r in incidents(tmp_path)] == [5]
    failpoints.arm("step.loss@step=5:nan")
    toy_trainer(tmp_path, world, steps=6).fit()
    assert [r["step"] for r in incidents(tmp_path)] == [5]


def test_a_spike_is_recorded_and_its_statistics_survive(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spikes, "WARM_UP", 4)
    options: dict[str, Any] = {"bad": -1, "spike_sigma": 4.0, "gradient_clipping": 0.0}
    trainer = toy_trainer(tmp_path, world, **options)
    batches = trainer.data.batches

    def loud(first: int) -> Iterator[Any]:
        for step, parts in enumerate(batches(first), first):
            for part in parts:
                part.x.mul_(50.0 if step == 6 else 1.0)
            yield parts

    trainer.data = replace(trainer.data, batches=loud)
    trainer.fit()
    spike = next(row for row in incidents(tmp_path) if row["step"] == 7)
    assert spike["kind"] == "spike"
    assert spike["clipped_to"] < spike["grad_norm"]
    assert rows(tmp_path)[6]["applied"]
    count, mean, variance = newest_state(tmp_path)["log_norm"]
    assert count == 8
    assert math.isfinite(mean)
    assert variance > 0
    assert all(value.isfinite().all() for value in load_weights(tmp_path, "raw").values())


def test_probing_leaves_torchs_generator_as_the_step_does(world: World, tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    toy_trainer(a, world, steps=4, poison=13, dropout=0.3).fit()
    torch.rand(5)
    toy_trainer(b, world, steps=4, poison=13, dropout=0.3).fit()
    assert_equal_runs(a, b)
