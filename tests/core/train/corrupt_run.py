"""A rank of runs in which rank 1 holds or computes wrong values. argv: FOLDER

A run for each kind of engine and each fault; each rank writes what ended it to FOLDER/KIND-FAULT-RANK.txt.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from core.distributed.ranks import World, start, stop
from core.errors import WorkError
from core.losses import Losses
from tests.core.toy_run import ToyObjective, toy_trainer
from tests.core.train.test_corruption import before_step, flip

STAGES = {"deepspeed": 1, "fsdp2": "fsdp2-3"}
FAULTS = ("weight", "master", "arithmetic")


class Unsteady(ToyObjective):
    """Turns a bit over of the loss of one call."""

    def __init__(self, call: int) -> None:
        self._call, self._calls = call, 0

    def loss(self, *arguments: Any) -> Losses:
        """Return the losses, once otherwise."""
        self._calls += 1
        losses = super().loss(*arguments)
        if self._calls == self._call:
            flip(losses.loss)
        return losses


def ended_by(folder: Path, world: World, kind: str, fault: str) -> str:
    """Return what ends a run in which rank 1 goes wrong before its third step."""
    trainer = toy_trainer(folder, world, steps=4, check_every=1, zero_stage=STAGES[kind])
    held = {"weight": next(trainer.engine.module.parameters()), "master": trainer.engine.masters[0]}
    if fault == "arithmetic":  # three steps of three calls: the check takes two, then the step its own
        trainer.stepper.objective = Unsteady(call=5 if world.rank == 1 else 0)
    elif world.rank == 1:
        before_step(trainer, 2, lambda: flip(getattr(held[fault], "_local_tensor", held[fault])))
    try:
        trainer.fit()
    except WorkError as error:
        return str(error)
    return "ended well"


def main(folder: Path) -> None:
    world = start("cpu", 60)
    for kind in STAGES:
        for fault in FAULTS:
            text = ended_by(folder / f"{kind}-{fault}", world, kind, fault)
            (folder / f"{kind}-{fault}-{world.rank}.txt").write_text(text)
    stop(world)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
