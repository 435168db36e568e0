"""Ranks of runs with replicas, in which a bit of rank 1 turns over where no checksum at rest tells.

argv: FOLDER SHARD_RANKS. Prints a line a case: its name, and what ended it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from core.distributed.ranks import World, start, stop
from core.errors import WorkError
from core.run.ending import end_with
from core.train.trainer import Trainer
from tests.core.toy_run import toy_trainer
from tests.core.train.test_corruption import before_step, flip

CASES: dict[str, Callable[[Trainer], Tensor]] = {
    "master": lambda trainer: trainer.engine.masters[0],
    "moment": lambda trainer: trainer.engine.moments()["exp_avg_sq"][0],
    "frozen": lambda trainer: next(part for _, part in trainer.engine.frozen_parts()),
}


def run(folder: Path, world: World, name: str, **fields: Any) -> None:
    """Flip a bit before step index 2; an update follows, then new checksums at rest, then a check."""
    trainer = toy_trainer(folder / name, world, steps=4, save_every=9, **fields)
    if name in CASES:
        before_step(trainer, 2, lambda: flip(CASES[name](trainer), 7) if world.rank == 1 else None)
    try:
        trainer.fit()
        print(name, "ended well")
    except WorkError as error:
        print(name, error)


def main() -> int:
    folder, shard_ranks = Path(sys.argv[1]), sys.argv[2]
    world = start("cpu", 60)
    run(folder, world, "well", zero_stage=f"fsdp2-3-{shard_ranks}", check_every=1, precision="bf16")
    run(folder, world, "muon", zero_stage=f"fsdp2-2-{shard_ranks}", check_every=1, rule="muon")
    for name in CASES:
        run(folder, world, name, zero_stage=f"fsdp2-2-{shard_ranks}", check_every=2)
    stop(world)
    return 0


if __name__ == "__main__":
    end_with(main)
