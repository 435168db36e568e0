"""A rank of a run in which a bit of rank 1's weights turns over. argv: FOLDER"""

from __future__ import annotations

import sys
from pathlib import Path

from core.distributed.ranks import start, stop
from core.errors import WorkError
from tests.core.toy_run import toy_trainer
from tests.core.train.test_corruption import before_step, flip


def main(folder: Path) -> None:
    world = start("cpu", 60)
    trainer = toy_trainer(folder / "run", world, steps=4, check_every=1, zero_stage=1)
    parameter = next(trainer.engine.module.parameters())
    before_step(trainer, 2, lambda: flip(parameter) if world.rank == 1 else None)
    try:
        trainer.fit()
    except WorkError as error:
        (folder / f"rank-{world.rank}.txt").write_text(str(error))
    stop(world)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
