"""Every stage and precision on one rank, against plain AdamW. Run: pytest tests/core/engine/test_engine.py"""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from core.averages.ema import Ema, EmaConfig
from core.distributed import ranks
from core.distributed.ranks import World
from core.draws import Draws
from core.engine import first_weights
from core.errors import UserError
from tests.core.toy_run import STAGES, ToyModel, ToyObjective, toy_batches, toy_engine


def train(model: Any, engine: Any, world: World, steps: int, micro_batch: int, poison: int = -1) -> list[Any]:
    """Train on the toy objective; `engine` needs backward and step; step `poison` has a NaN loss."""
    results = []
    for step, parts in zip(range(steps), toy_batches(world, micro_batch)(0), strict=False):
        for batch in parts:
            losses = ToyObjective().loss(model, batch, Draws(7, step, batch.id, batch.position))
            loss = losses.loss.sum() / 8
            engine.backward(loss * math.nan if step == poison else loss)
        results.append(engine.step(1e-2))
    return results


class PlainAdamW:
    """The engine's reference in the fewest lines: fp32, one process."""

    def __init__(self, model: torch.nn.Module) -> None:
        self.model = model
        trainable = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        decay = [p for n, p in trainable if p.ndim > 1 and n != "embedding.weight"]
        free = [p for n, p in trainable if p.ndim < 2 or n == "embedding.weight"]
        groups = [{"params": decay, "weight_decay": 0.1}, {"params": free, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, foreach=False)
        self.ema = {n: p.detach().clone() for n, p in trainable}
        self.updates = 0

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def step(self, lr: float) -> float:
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), 0.5)
        if norm.isfinite():
            for group in self.optimizer.param_groups:
                group["lr"] = lr
            self.optimizer.step()
            self.updates += 1
            for name, p in self.model.named_parameters():
                if p.requires_grad:
                    self.ema[name].lerp_(p.detach(), 1 - min(0.9, self.updates / (self.updates + 10)))
        self.optimizer.zero_grad()
        return float(norm)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("micro_batch", [8, 4])
def test_fp32_equals_plain_adamw_with_clipping(world: World, stage: Any, micro_batch: int) -> None:
    engine = toy_engine(world, zero_stage=stage, precision="fp32", gradient_clipping=0.5)
    torch.manual_seed(0)
    model = ToyModel()
    plain = PlainAdamW(model)
    norms = train(model, plain, world, 4, micro_batch)
    results = train(engine, engine, world, 4, micro_batch)
    assert [r.grad_norm for r in results] == pytest.approx(norms, rel=1e-5)
    assert all(r.applied for r in results)
    state = engine.full_state()
    for name, p in model.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(state[name], p.detach(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("stage", STAGES)
def test_average_equals_that_of_whole_parameters(world: World, stage: Any) -> None:
    engine = toy_engine(world, zero_stage=stage, precision="fp32", gradient_clipping=0.5)
    torch.manual_seed(0)
    model = ToyModel()
    plain, ema = PlainAdamW(model), Ema(EmaConfig(decay=0.9), engine.masters)
    train(model, plain, world, 3, 8)

    class Averaging:
        backward = engine.backward

        def step(self, lr: float) -> None:
            engine.step(lr)
            ema.update(engine.masters, engine.updates)

    train(engine, Averaging(), world, 3, 8)
    state = engine.full_state(ema.averages["0.9"])
    for name, average in plain.ema.items():
        torch.testing.assert_close(state[name], average, rtol=0, atol=2e-6)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_step_with_nan_is_skipped_and_leaves_nothing_behind(
    world: World, stage: Any, precision: str
) -> None:
    engine = toy_engine(world, zero_stage=stage, precision=precision)
    train(engine, engine, world, 1, 4)
    before = {name: value.clone() for name, value in engine.full_state().items()}
    moments = [m.clone() for ms in engine.moments().values() for m in ms]
    result = train(engine, engine, world, 1, 4, poison=0)[0]
    assert not result.applied
    assert result.grad_norm == math.inf
    assert engine.updates == 1
    assert all(torch.equal(value, before[name]) for name, value in engine.full_state().items())
    assert all(map(torch.equal, moments, [m for ms in engine.moments().values() for m in ms]))
    clean = toy_engine(world, zero_stage=stage, precision=precision)
    train(clean, clean, world, 1, 4)
    assert train(engine, engine, world, 1, 4) == train(clean, clean, world, 1, 4)


@pytest.mark.parametrize("stage", STAGES)
def test_bf16_masters_start_from_the_fp32_weights(world: World, stage: Any) -> None:
    torch.manual_seed(0)
    model = ToyModel()
    state = toy_engine(world, zero_stage=stage, precision="bf16").full_state()
    assert all(torch.equal(state[n], p) for n, p in model.named_parameters() if p.requires_grad)


def test_on_a_cpu_the_fp32_weights_are_held_and_not_copied(world: World) -> None:
    """They are kept until masters are made of them; a copy would be the whole network once more."""
    model = ToyModel()
    places = {name: p.data_ptr() for name, p in model.named_parameters()}
    held = first_weights.settle(model, world, torch.bfloat16)
    assert len(held) > 3
    for name, parameter in model.named_parameters():
        assert parameter.dtype == torch.bfloat16
        if name in held:
            values = held[name](0, parameter.numel())
            assert values.dtype == torch.float32
            assert values.data_ptr() == places[name]


@pytest.mark.parametrize("stage", STAGES)
def test_bf16_stays_close_to_fp32(world: World, stage: Any) -> None:
    coarse = toy_engine(world, zero_stage=stage, precision="bf16")
    fine = toy_engine(world, zero_stage=stage, precision="fp32")
    a, b = train(coarse, coarse, world, 3, 4), train(fine, fine, world, 3, 4)
    assert [r.grad_norm for r in a] == pytest.approx([r.grad_norm for r in b], rel=0.02)


@pytest.mark.parametrize("stage", STAGES)
def test_written_masters_reach_the_network(world: World, stage: Any) -> None:
    engine = toy_engine(world, zero_stage=stage, precision="bf16")
    with torch.no_grad():
        for flat in engine.masters:
            flat.zero_()
    engine.refresh()
    x = torch.randn(2, 33)
    expected = engine(x)  # only the frozen layer is left
    frozen = engine.fixed()
    weight, bias = frozen["frozen/frozen.weight"], frozen["frozen/frozen.bias"]
    reference = torch.nn.functional.linear(x.to(weight.dtype), weight, bias).float()
    torch.testing.assert_close(expected, reference)


@pytest.mark.parametrize("stage", STAGES)
def test_shards_cover_every_trainable_number_once(world: World, stage: Any) -> None:
    engine = toy_engine(world, zero_stage=stage)
    seen = {name: torch.zeros(math.prod(shape)) for name, shape in engine.trainable_shapes().items()}
    for shard in engine.owned:
        seen[shard.name][shard.start : shard.stop] += 1
    assert all((count == 1).all() for count in seen.values())


def test_learning_rate_of_zero_changes_nothing(world: World) -> None:
    engine = toy_engine(world, zero_stage=1, precision="fp32")
    before = engine.full_state()
    for batch in next(toy_batches(world, 0)(0)):
        engine.backward(engine(batch.x).square().mean())
    engine.step(0.0)
    assert all(torch.equal(value, before[name]) for name, value in engine.full_state().items())


def test_timeouts_reach_every_process_group(world: World) -> None:
    from torch.distributed import distributed_c10d as c10d

    toy_engine(world, zero_stage=1, timeout_s=45.0)
    for group in c10d._world.pg_map:
        assert group._get_backend(torch.device("cpu")).options._timeout.total_seconds() == 45.0


@pytest.mark.parametrize("stage", STAGES)
def test_a_step_waits_for_no_whole_device(world: World, stage: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU this does nothing; on a GPU it empties the queue, and DeepSpeed's timer asks for it."""
    from deepspeed.accelerator import get_accelerator

    engine = toy_engine(world, zero_stage=stage, precision="bf16")
    train(engine, engine, world, 2, 4)  # the timer begins with the third step
    asked: list[str] = []
    monkeypatch.setattr(get_accelerator(), "synchronize", lambda *device: asked.append("waited"))
    train(engine, engine, world, 2, 4)
    assert asked == []


def test_a_missing_cuda_device_is_refused(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"^device=cuda: expected cpu"):
        ranks.start("cuda")
