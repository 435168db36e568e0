"""Train a DiT in bf16 by each engine: `python tests/integration/rounding_run.py RESULT STEPS`, once a rank.

The first rank writes, for each of CASES, the norms of gradients, and whether the masters began with the bits
of the fp32 weights; and the norms of a loop without an engine, by the size of its micro-batches.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.batch import Batch
from core.distributed import ranks
from core.distributed.ranks import World
from core.engine.config import EngineConfig
from core.engine.kinds import make_engine
from core.optim.groups import OptimizerConfig
from core.run.ending import end_with
from core.train.randomness import Randomness
from models.denoisers.dit import DiT, DiTConfig
from tests.core.rounded_loop import rounded_norms
from tests.integration.parity_run import EPS, GROUP, SHAPES, TEXT, ParityObjective, batches

CLIPPING = 0.5
NETWORK = DiTConfig(width=24, depth=2, heads=4, num_classes=3, text_width=TEXT)
OPTIMIZER = OptimizerConfig(lr=1e-4, eps=EPS, weight_decay=0.1)
CASES: dict[str, dict[str, Any]] = {
    **{f"zero {stage}": {"zero_stage": stage} for stage in range(4)},
    "2": {"kind": "fsdp2", "zero_stage": 2},
    "3": {"kind": "fsdp2", "zero_stage": 3},
    "micro": {"kind": "fsdp2", "zero_stage": 3, "micro_batch": 2},
    "last": {"kind": "fsdp2", "zero_stage": 2, "micro_batch": 2, "reduce": "last"},
    "replicas": {"kind": "fsdp2", "zero_stage": 3, "shard_ranks": 2},
}


def network() -> DiT:
    """Return the network at its first weights, of which none is zero."""
    torch.manual_seed(0)
    made = DiT(NETWORK)
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return made


def losses(model: Any, world: World, step: int, micro_batch: int) -> Iterator[Callable[[], Tensor]]:
    """Yield what gives a rank's part of the step's loss, micro-batch by micro-batch."""
    for batch in next(batches(world, micro_batch)(step)):
        yield lambda batch=batch: _loss(model, world, step, batch)


def _loss(model: Any, world: World, step: int, batch: Batch) -> Tensor:
    found = ParityObjective().loss(model, batch, Randomness(7, world).draws(step, batch)).loss
    return torch.where(batch.weight > 0, found, 0.0).sum() / (len(SHAPES) * (GROUP - 1))


def trained(world: World, steps: int, fields: dict[str, Any]) -> tuple[list[float], bool]:
    """Return gradient norms, and whether the masters began with the weights' bits (on the first rank)."""
    config = EngineConfig(device="cpu", gradient_clipping=CLIPPING, **fields)
    engine, norms = make_engine(network(), config, OPTIMIZER, world), list[float]()
    began = engine.full_state()
    for step in range(steps):
        parts = list(losses(engine, world, step, config.most_at_once))
        for place, loss in enumerate(parts, 1):
            engine.backward(loss(), is_last=place == len(parts))
        norms.append(engine.step(OPTIMIZER.lr).grad_norm)
    plain = dict(network().named_parameters())
    return norms, all(torch.equal(value, plain[name]) for name, value in began.items())


def plain_norms(world: World, steps: int, micro_batch: int) -> list[float]:
    """Return the norms of one process that computes what all ranks do, one after another."""
    model = network()

    def of_step(step: int) -> Iterator[Callable[[], Tensor]]:
        for rank in range(world.size):
            yield from losses(model, replace(world, rank=rank), step, micro_batch)

    return rounded_norms(model, of_step, steps, OPTIMIZER, CLIPPING)


def main() -> None:
    """Train every case that so many ranks can."""
    world, steps = ranks.start("cpu", 300), int(sys.argv[2])
    cases = {name: fields for name, fields in CASES.items() if world.size > 2 or "shard_ranks" not in fields}
    found: dict[str, Any] = {name: trained(world, steps, fields) for name, fields in cases.items()}
    if world.rank == 0:
        plain = {micro_batch: plain_norms(world, steps, micro_batch) for micro_batch in (0, 2)}
        torch.save({"cases": found, "plain": plain}, Path(sys.argv[1]))
    ranks.stop(world)


if __name__ == "__main__":
    end_with(main)
