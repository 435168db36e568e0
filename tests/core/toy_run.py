"""A small training run for tests; as a program: `python tests/core/toy_run.py --run=FOLDER field=value ...`.

The network has everything a checkpoint must carry: two parameter groups, a frozen layer, buffers, dropout.
Batches and targets are keyed by step and position, so any number of ranks sees the same samples.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from core.averages.ema import EmaConfig
from core.batch import Batch
from core.distributed import ranks
from core.distributed.agreement import order_hash
from core.distributed.ranks import World
from core.draws import Draws
from core.engine.config import EngineConfig
from core.engine.engine import Engine
from core.engine.kinds import make_engine
from core.errors import CONTINUABLE, EndedEarly
from core.faults import failpoints
from core.losses import Losses
from core.metrics.rows import MetricsConfig
from core.optim.groups import OptimizerConfig
from core.run import fence
from core.run.ending import end_with
from core.train.config import TrainerConfig
from core.train.single import SingleStepper
from core.train.trainer import Trainer
from core.train.training_data import TrainingData
from core.train.validation import ValidationConfig

WIDTH, BATCH = 33, 8
STAGES = (0, 1, 2, 3, "fsdp2-2", "fsdp2-3")
"""Each kind of engine at each of its stages, as `engine_fields` takes them."""


def engine_fields(stage: int | str) -> dict[str, Any]:
    """Return the engine's fields: of a ZeRO stage, fsdp2-STAGE, or fsdp2-STAGE-SHARD_RANKS."""
    kind, *numbers = stage.split("-") if isinstance(stage, str) else ("deepspeed", stage)
    fields = dict(zip(("zero_stage", "shard_ranks"), map(int, numbers), strict=False))
    return {"kind": kind, **fields}


class ToyModel(nn.Module):
    """A network of odd sizes, so that shards of 2 and 4 ranks cut through parameters and need padding."""

    def __init__(self, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(5, WIDTH)
        self.embedding.weight.no_decay = True  # type: ignore[assignment]
        self.first, self.second = nn.Linear(WIDTH, 65), nn.Linear(65, WIDTH)
        self.first.weight.hidden = True  # type: ignore[assignment]
        self.second.weight.hidden = True  # type: ignore[assignment]
        self.frozen = nn.Linear(WIDTH, WIDTH).requires_grad_(False)
        self.dropout = nn.Dropout(dropout)
        self.register_buffer("calls", torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        x = x.to(self.first.weight.dtype) + self.embedding.weight.sum(0)
        hidden = self.dropout(nn.functional.gelu(self.first(x)))
        return (self.second(hidden) + self.frozen(x)).float()


class ToyObjective:
    """Reconstructs the input from a noisy version of it."""

    def loss(self, model: Any, batch: Batch, draws: Draws) -> Losses:
        time = draws.uniform("time")
        noisy = batch.x + time[:, None] * draws.normal("noise", (WIDTH,))
        loss = (model(noisy) - batch.x).square().mean(1)
        return Losses(loss, time, {"distance": (noisy - batch.x).norm(dim=1)})


def toy_batches(world: World, micro_batch: int, bad: int = -1, poison: int = -1) -> Any:
    """Make micro-batches of this rank; the sample at position `bad` is unreadable in every step.

    The sample with id `poison` is so large that the network's first layer overflows.
    """

    def batches(first_step: int) -> Iterator[list[Batch]]:
        step = first_step
        while True:
            share = BATCH // world.size
            positions = torch.arange(world.rank * share, (world.rank + 1) * share)
            yield [_batch(step, part, bad, poison) for part in positions.split(micro_batch or share)]
            step += 1

    return batches


def _batch(step: int, position: Tensor, bad: int, poison: int = -1) -> Batch:
    ids = step * BATCH + position
    x = torch.stack([torch.randn(WIDTH, generator=torch.Generator().manual_seed(int(i))) for i in ids])
    weight = (position != bad).float()
    x[position == bad] = 100.0
    x[ids == poison] = 3e38
    everyone = np.arange(BATCH)
    whole = order_hash(step, step * BATCH + everyone, everyone)
    return Batch(x=x, id=ids, position=position, weight=weight, bucket="toys", order_hash=whole)


def toy_engine(
    world: World,
    *,
    seed: int = 0,
    dropout: float = 0.0,
    lr: float = 1e-2,
    schedule: Any = "cosine",
    rule: Any = "adamw",
    **engine: Any,
) -> Engine:
    torch.manual_seed(seed)
    optimizer = OptimizerConfig(name=rule, lr=lr, weight_decay=0.1, warmup_steps=3, schedule=schedule)
    fields = engine_fields(engine.pop("zero_stage", 1))
    config = EngineConfig(**{"device": "cpu", "timeout_s": 60.0, **fields, **engine})
    return make_engine(ToyModel(dropout), config, optimizer, world)


def toy_trainer(folder: Path, world: World, **fields: Any) -> Trainer:
    """Make a trainer; fields: of TrainerConfig, EngineConfig, EmaConfig and `toy_engine`, bad, poison.

    largest: whether a micro-batch is tried before the first step. Garbage is not collected at chosen steps:
    that looks at all that tests have imported, and takes longer than the run.
    """
    bad, poison = fields.pop("bad", -1), fields.pop("poison", -1)
    validation = ValidationConfig(every=fields.pop("validate_every", 0))
    ema = {name: fields.pop(name) for name in EmaConfig.__dataclass_fields__ if name in fields}
    trainer = {name: fields.pop(name) for name in TrainerConfig.__dataclass_fields__ if name in fields}
    largest = fields.pop("largest", False)
    engine = toy_engine(world, **fields)
    batches = toy_batches(world, engine.config.most_at_once, bad, poison)
    data = TrainingData(
        batches=batches,
        largest=lambda: next(batches(0))[:1] if largest else [],
        validation=lambda: next(toy_batches(world, 2)(10**6)),
        work_of=lambda batch: (4 * len(batch), 1e9 * len(batch)),
    )
    return Trainer(
        SingleStepper(engine, ToyObjective(), EmaConfig(**{"decay": 0.9, "extra_decays": (0.5,), **ema})),
        data,
        TrainerConfig(**{"steps": 8, "save_every": 3, "collect_every": 0, **trainer}),
        folder=folder,
        seed=7,
        metrics=MetricsConfig(log_every=2),
        validation=validation,
        fingerprints={"data": "toy"},
        run_config={"steps": trainer.get("steps", 8)},
    )


def start(words: Sequence[str], program: Callable[[], int] | None = None) -> None:
    """Start as a program would, in a process of its own that was forked."""
    torch.set_num_threads(1)
    sys.argv[1:] = words
    end_with(program or main)


def main(make: Callable[..., Trainer] | None = None) -> int:
    """Run once per `--run=FOLDER field=value ...`; `fault=...` arms failpoints during that run only."""
    world = ranks.start("cpu", 60)
    for run in " ".join(sys.argv[1:]).split("--run=")[1:]:
        folder, *items = run.split()
        fields = dict(item.split("=", 1) for item in items)
        failpoints.arm(fields.pop("fault", ""))
        fence.EVERY_S = float(fields.pop("fence_s", fence.EVERY_S))
        values = {
            name: json.loads(value) if value[0] in "[-0123456789" or value in ("true", "false") else value
            for name, value in fields.items()
        }
        try:
            (make or toy_trainer)(Path(folder), world, **values).fit()
        except EndedEarly as end:
            print(end)
            return CONTINUABLE
    ranks.stop(world)
    return 0


if __name__ == "__main__":
    end_with(main)
