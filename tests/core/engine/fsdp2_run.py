"""Train a network of odd rows by FSDP2: `python tests/core/engine/fsdp2_run.py RESULT`, once per rank.

Each case of CASES trains four steps; the first rank writes norms, weights, averages and who holds what.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core.averages.ema import Ema, EmaConfig
from core.distributed import ranks
from core.distributed.ranks import World
from core.engine.config import EngineConfig
from core.engine.engine import Engine
from core.engine.kinds import make_engine
from core.optim.groups import OptimizerConfig
from core.run.ending import end_with
from tests.core.rounded_loop import rounded_norms
from tools.plan.shares import numbers_of_ranks
from tools.runs.memory.run_memory import groups_of, state_of

STEPS, SAMPLES, WIDTH, CLIPPING = 4, 8, 5, 0.5
CASES: dict[str, dict[str, Any]] = {
    "zero": {"zero_stage": 0},
    "2": {"kind": "fsdp2", "zero_stage": 2},
    "3": {"kind": "fsdp2", "zero_stage": 3},
    "micro": {"kind": "fsdp2", "zero_stage": 3, "micro_batch": 1},
    "last": {"kind": "fsdp2", "zero_stage": 2, "micro_batch": 1, "reduce": "last"},
    "replicas": {"kind": "fsdp2", "zero_stage": 3, "micro_batch": 1, "shard_ranks": 2},
    "replicas, last": {
        **{"kind": "fsdp2", "zero_stage": 2, "micro_batch": 1, "reduce": "last", "shard_ranks": 2}
    },
}


class OddBlock(nn.Module):
    """Rows that no two or four ranks share evenly: 3, 5 and 1 of them, some trained and some not."""

    def __init__(self) -> None:
        super().__init__()
        self.grow, self.shrink = nn.Linear(WIDTH, 3), nn.Linear(3, WIDTH)
        self.grow.weight.hidden = self.shrink.weight.hidden = True  # type: ignore[assignment]
        self.scale = nn.Parameter(torch.ones(1, WIDTH))
        self.frozen = nn.Linear(WIDTH, WIDTH).requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.shrink(nn.functional.gelu(self.grow(x))) + 0.1 * self.frozen(x)


class OddNet(nn.Module):
    """Blocks, and around them what all ranks gather together; `some` is used by the first rank alone."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self.rank, self.blocks = world.rank, nn.ModuleList(OddBlock() for _ in range(3))
        self.first, self.shift = nn.Linear(2, WIDTH), nn.Parameter(torch.zeros(3))
        self.some = nn.Parameter(torch.ones(7))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.to(self.first.weight.dtype))
        for block in self.blocks:
            x = block(x)
        x = x + self.shift.sum()
        return (x * self.some.sum() if self.rank == 0 else 7 * x).float()


def make(world: World, *, rule: Any = "adamw", precision: Any = "fp32", **fields: Any) -> Engine:
    torch.manual_seed(0)
    config = EngineConfig(device="cpu", precision=precision, gradient_clipping=CLIPPING, **fields)
    return make_engine(OddNet(world), config, OptimizerConfig(name=rule, lr=1e-2, weight_decay=0.1), world)


def samples(world: World, step: int, micro_batch: int) -> list[Tensor]:
    x = torch.randn((SAMPLES, 2), generator=torch.Generator().manual_seed(step))
    mine = x.chunk(world.size)[world.rank]
    return list(mine.split(micro_batch or len(mine)))


def train(engine: Engine, world: World, steps: int = STEPS) -> tuple[list[float], Ema]:
    """Return the gradient norms of the steps, and an average of the weights."""
    norms, ema = [], Ema(EmaConfig(decay=0.9), engine.masters)
    for step in range(steps):
        parts = samples(world, step, engine.config.most_at_once)
        for place, part in enumerate(parts, 1):
            loss = engine(part).square().sum() / SAMPLES
            engine.backward(loss, is_last=place == len(parts))
        norms.append(engine.step(1e-2).grad_norm)
        ema.update(engine.masters, engine.updates)
    return norms, ema


def result(world: World, fields: dict[str, Any]) -> dict[str, Any]:
    engine = make(world, **fields)
    norms, ema = train(engine, world)
    shown = {"norms": norms, "weights": engine.full_state(), "fixed": engine.fixed()}
    shown["average"] = engine.full_state(ema.averages["0.9"])
    shown["plain"] = plain_norms(world, engine.config.most_at_once)
    owned = [(s.name, s.start, s.stop) for s in engine.owned]
    rows = ranks.gather_objects((owned, _sizes(engine)))
    return (
        shown | {"owned": [mine for mine, _ in rows], "sizes": [sizes for _, sizes in rows]} | _said(engine)
    )


def plain_norms(world: World, micro_batch: int) -> list[float]:
    """Return the norms of one process that rounds and sums as FSDP2 does: AdamW, bf16 with fp32 masters."""
    torch.manual_seed(0)
    network = OddNet(world)

    def losses(step: int) -> Iterator[Callable[[], Tensor]]:
        for network.rank in range(world.size):
            for part in samples(replace(world, rank=network.rank), step, micro_batch):
                yield lambda part=part: network(part).square().sum() / SAMPLES

    return rounded_norms(network, losses, STEPS, OptimizerConfig(lr=1e-2, weight_decay=0.1), CLIPPING)


def _sizes(engine: Engine) -> list[int]:
    """Return the bytes of masters and of moments, and the numbers that this rank updates."""
    moments = sum(flat.nbytes for state in engine.moments().values() for flat in state)
    updated = sum(shard.stop - shard.start for shard in engine.shards)
    return [sum(flat.nbytes for flat in engine.masters), moments, updated]


def _said(engine: Engine) -> dict[str, list[list[int]]]:
    """Return what a plan says that `_sizes` are, of every rank."""
    count = engine.world.size
    groups = groups_of(lambda: OddNet(engine.world), engine.optimizer)
    parts = state_of(groups, engine.config, count, count).parts()
    copy = engine.config.copy_ranks(count, count) if engine.config.kind == "fsdp2" else 0
    updated = numbers_of_ranks(groups, engine.config.stage, count, copy).tolist()
    return {"said": [[parts["masters"], parts["moments"], number] for number in updated]}


def main() -> None:
    world = ranks.start("cpu", 60)
    names = [name for name in CASES if world.size > 2 or "replicas" not in name]
    found = {
        f"{name}, {rule}, {precision}": result(world, {**CASES[name], "rule": rule, "precision": precision})
        for name in names
        for rule in ("adamw", "muon")
        for precision in ("fp32", "bf16")
    }
    if world.rank == 0:
        torch.save(found, Path(sys.argv[1]))
    ranks.stop(world)


if __name__ == "__main__":
    end_with(main)
