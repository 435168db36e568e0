"""Find the cause of a non-finite gradient. Run: pytest tests/core/faults/test_nonfinite.py"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from core.distributed.ranks import World
from core.losses import Losses
from core.records import read_rows
from tests.core.toy_run import STAGES, toy_trainer
from tests.core.train.test_trainer import rows


class SpoilGradient(torch.autograd.Function):
    """Passes values on, and turns the gradient of marked samples to NaN."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, marked: Tensor) -> Tensor:
        ctx.save_for_backward(marked)
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (marked,) = ctx.saved_tensors
        return torch.where(marked[:, None], torch.nan, gradient), None


class Spoiling(torch.nn.Module):
    """A GELU whose backward is wrong for marked samples."""

    def forward(self, x: Tensor, marked: Tensor) -> Tensor:
        return SpoilGradient.apply(torch.nn.functional.gelu(x), marked)


def spoil(trainer: Any, sample: int) -> None:
    """Give the toy an activation whose backward is NaN for one sample; the forward stays finite."""
    module = trainer.engine.module
    module.activation = Spoiling()
    (target,) = (
        x
        for b in next(trainer.data.batches(sample // 8))
        for x, i in zip(b.x, b.id, strict=True)
        if i == sample
    )

    def forward(x: Tensor) -> Tensor:
        marked = (x == target).all(1)
        module.calls += 1
        x = x.to(module.first.weight.dtype) + module.embedding.weight.sum(0)
        hidden = module.activation(module.first(x), marked)
        return (module.second(hidden) + module.frozen(x)).float()

    module.forward = forward


class NoNoise:
    """The toy's objective without noise, so that the network's inputs are the batch itself."""

    def loss(self, model: Any, batch: Any, draws: Any) -> Any:
        return Losses((model(batch.x) - batch.x).square().mean(1), torch.full((len(batch),), 0.35))


@pytest.mark.parametrize("stage", STAGES)
def test_a_module_whose_backward_fails_is_named(world: World, tmp_path: Path, stage: Any) -> None:
    trainer = toy_trainer(tmp_path, world, steps=3, micro_batch=4, zero_stage=stage)
    trainer.stepper.objective = NoNoise()
    spoil(trainer, 13)
    trainer.fit()
    (row,) = read_rows(tmp_path / "incidents.jsonl")
    (found,) = row["culprits"]
    assert (found["module"], found["pass"]) == ("activation", "backward")
    assert found["samples"] == [{"id": 13, "decile": 3}]
    assert [r["applied"] for r in rows(tmp_path)] == [True, False, True]
    assert torch.stack([flat.isfinite().all() for flat in trainer.engine.masters]).all()
    assert trainer.engine.module.calls.tolist() == [6.0] * 3  # searching is not counted
