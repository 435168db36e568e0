"""Rehearsals before the first step, and out of memory. Run: pytest tests/core/train/test_step.py"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from core.distributed.ranks import World
from core.engine.restoring import dry_step
from core.errors import WorkError
from core.faults import failpoints
from core.records import read_rows
from tests.core.toy_run import STAGES, toy_batches, toy_engine, toy_trainer
from tests.core.train.test_trainer import assert_equal_runs


@pytest.mark.parametrize(
    ("stage", "precision"),
    [
        (0, "bf16"),
        (1, "bf16"),
        (1, "fp32"),
        (2, "bf16"),
        (3, "bf16"),
        ("fsdp2-2", "bf16"),
        ("fsdp2-3", "fp32"),
    ],
)
def test_of_a_rehearsal_nothing_remains(world: World, tmp_path: Path, stage: Any, precision: str) -> None:
    """Nothing remains in weights, averages, buffers and draws, nor in the record."""
    tried, plain = tmp_path / "tried", tmp_path / "plain"
    options = {"steps": 3, "dropout": 0.3, "zero_stage": stage, "precision": precision, "micro_batch": 4}
    toy_trainer(tried, world, largest=True, **options).fit()
    toy_trainer(plain, world, **options).fit()
    assert_equal_runs(tried, plain)
    assert not (tried / "incidents.jsonl").exists()


def test_randomness_inside_the_network_is_that_of_the_step(world: World, tmp_path: Path) -> None:
    randomness, drawn = toy_trainer(tmp_path, world).runner.randomness, []
    for step in (3, 4, 3):
        randomness.seed_torch(step)
        drawn.append(torch.rand(4))
    assert torch.equal(drawn[0], drawn[2])
    assert not torch.equal(drawn[0], drawn[1])


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_that_is_continued_rehearses_and_checks_too(world: World, tmp_path: Path, stage: Any) -> None:
    """Several passes come between a load and the first update: ZeRO-3 has fixed their order by then."""
    moved, plain = tmp_path / "moved", tmp_path / "plain"
    options = {"zero_stage": stage, "schedule": "constant", "micro_batch": 4}
    toy_trainer(moved, world, steps=3, **options).fit()
    toy_trainer(moved, world, steps=6, largest=True, check_every=2, validate_every=5, **options).fit()
    toy_trainer(plain, world, steps=6, **options).fit()
    assert_equal_runs(moved, plain)


def test_the_largest_micro_batch_is_tried_before_the_first_step(world: World, tmp_path: Path) -> None:
    failpoints.arm("rehearsal:oom")
    says = (
        r"out of memory on rank 0 in a micro-batch as large as any, tried before the first step, 8 samples "
        r"of toys 33 \(a smaller engine.micro_batch.*\): CUDA out of memory, as LONGTAKE_FAULT asks at"
    )
    with pytest.raises(WorkError, match=says):
        toy_trainer(tmp_path, world, steps=3, largest=True).fit()
    assert not read_rows(tmp_path / "metrics.jsonl")


def test_running_out_of_memory_names_step_micro_batch_and_bucket(world: World, tmp_path: Path) -> None:
    failpoints.arm("step.backward@step=2:oom")
    says = r"on rank 0 in step 2, micro-batch 1 of 2, 4 samples of toys 33 "
    with pytest.raises(WorkError, match=says):
        toy_trainer(tmp_path, world, steps=3, micro_batch=4).fit()


def test_a_gradient_that_would_be_applied_is_noticed(world: World) -> None:
    """Without a backward pass nothing is NaN, so the step would not be skipped."""
    engine = toy_engine(world, zero_stage=0)
    with pytest.raises(RuntimeError, match="was applied"), dry_step(engine):
        pass
    with dry_step(engine):  # the usual case still works
        (batch, *_) = next(toy_batches(world, 0)(0))
        engine.backward(engine(batch.x).square().mean())
    assert all(flat.isfinite().all() for flat in engine.masters)
    assert torch.isfinite(torch.tensor(engine.step(1e-3).grad_norm))
