"""A small DiT trained on synthetic latents, however the work is split over ranks.

As a program, on every rank: `python tests/integration/parity_run.py DEVICE --run=FOLDER field=value ...`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.batch import Batch, Condition
from core.diffusion.objective import Objective
from core.diffusion.objectives.config import ObjectiveConfig
from core.distributed import ranks
from core.distributed.ranks import World
from core.distributed.sequence import data_world, make_sequence_group
from core.draws import Draws
from core.engine.activation_checkpointing import checkpoint_blocks
from core.engine.compiling import compilations, compile_blocks, compiled_graphs, warm_up
from core.engine.config import EngineConfig
from core.engine.kinds import make_engine
from core.losses import Losses
from core.metrics.rows import MetricsConfig
from core.optim.groups import OptimizerConfig
from core.run.ending import end_with
from core.train.config import TrainerConfig
from core.train.single import SingleStepper
from core.train.trainer import Trainer
from core.train.training_data import TrainingData
from core.train.validation import ValidationConfig, whole_steps
from models.denoisers.dit import DiT, DiTConfig

GROUP, UNREADABLE = 8, 5
LIMIT_S = 600.0  # a rank may have to wait while another compiles
TEXT, VALIDATED = 6, 2 * GROUP
EPS = 1e-6  # above what rounding leaves of a gradient that is zero: Adam would make a full step of it
SHAPES = ((1, 6, 6), (3, 6, 6))  # 9 and 27 tokens: no group of ranks has equal shares


class ParityObjective:
    """Flow matching on the batch itself."""

    def loss(self, model: Any, batch: Batch, draws: Draws) -> Losses:
        return Objective(ObjectiveConfig()).loss(model, batch.x, batch.condition, draws)


def batches(world: World, micro_batch: int) -> Any:
    """Return batches: each step a group of images and one of clips; one sample of each cannot be read."""

    def steps(first: int) -> Iterator[list[Batch]]:
        share = GROUP // world.size
        mine = torch.arange(world.rank * share, (world.rank + 1) * share)
        step = first
        while True:
            parts = mine.split(micro_batch or share)
            yield [_batch(step, group, part) for group in range(len(SHAPES)) for part in parts]
            step += 1

    return steps


def _batch(step: int, group: int, place: Tensor) -> Batch:
    position = group * GROUP + place
    ids = step * GROUP * len(SHAPES) + position
    keyed = [torch.Generator().manual_seed(int(i)) for i in ids]
    condition = Condition(
        label=ids % 3,
        text=torch.stack([torch.randn(4, TEXT, generator=g) for g in keyed]),
        text_length=ids % 5,
    )
    x = torch.stack([torch.randn(4, *SHAPES[group], generator=g) for g in keyed])
    return Batch(x=x, id=ids, position=position, weight=(place != UNREADABLE).float(), condition=condition)


def train(
    folder: Path, world: World, *, steps: int = 3, model: str = "{}", backend: str = "", **engine: Any
) -> tuple[int, int]:
    """Train from random weights, none zero; `model` is JSON, `backend` one of torch.compile.

    Returns how many graphs were compiled before the first step began, and after it, with backward passes.
    """
    fields = {
        "device": world.device.type,
        "precision": "fp32",
        "timeout_s": LIMIT_S,
        "compile": bool(backend),
    }
    config = EngineConfig(**{**fields, **engine})
    torch.manual_seed(0)
    shape = {"width": 24, "depth": 2, "heads": 4, "num_classes": 3, "text_width": TEXT, **json.loads(model)}
    network = DiT(DiTConfig(**shape), make_sequence_group(world, config.sequence_parallel))
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    checkpoint_blocks(network.blocks, config)
    mine = data_world(world, config.sequence_parallel)
    steps_from = batches(mine, config.most_at_once)
    data = TrainingData(
        batches=steps_from,
        validation=lambda: whole_steps(lambda step: next(steps_from(step)), VALIDATED, mine.size),
        work_of=lambda batch: (batch.x[:, 0].numel() // 4, batch.x[:, 0].numel() * 1e6),
    )
    made = make_engine(network, config, OptimizerConfig(lr=1e-4, eps=EPS, weight_decay=0.1), world)
    trainer = Trainer(
        SingleStepper(made, ParityObjective()),
        data,
        TrainerConfig(steps=steps, save_every=steps),
        folder=folder,
        seed=7,
        metrics=MetricsConfig(log_every=steps),
        validation=ValidationConfig(every=steps, samples=VALIDATED, strata=10),  # a loss for each decile
    )
    before = compiled = compiled_graphs()
    if backend:
        compile_blocks(network.blocks, backend)
        first = next(data.batches(0))
        examples = [(b.x, torch.ones(len(b)), b.condition) for b in first]
        compiled = warm_up(made, examples, examples)
    made = compilations()
    trainer.fit()
    return compiled - before, compilations() - made


def main() -> None:
    """Train one run for each `--run=FOLDER field=value ...`, on the device that stands before them."""
    world = ranks.start(sys.argv[1], LIMIT_S)
    for run in " ".join(sys.argv[2:]).split("--run=")[1:]:
        folder, *items = run.split()
        fields = dict(item.split("=", 1) for item in items)
        values = {name: int(value) if value.isdigit() else value for name, value in fields.items()}
        print(f"{Path(folder).name}: graphs {train(Path(folder), world, **values)}", flush=True)
    ranks.stop(world)


if __name__ == "__main__":
    end_with(main)
