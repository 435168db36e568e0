"""Ranks of which one works longer than a collective may last. A program for `tests.core.ranks.fork_ranks`."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from core.distributed import ranks, waiting
from core.distributed.ranks import World
from core.errors import WorkError
from core.run.ending import end_with

LIMIT_S, WORK_S = 2.0, 3.0  # of a collective, and of the longer work


def long_work(result: str) -> str:
    time.sleep(WORK_S)
    return result


def long_on_one(world: World) -> None:
    """Rank 0 does for all what takes long, then rank 1 is late, on two threads."""
    print(ranks.on_first_rank(partial(long_work, "first")))
    group = ranks.side_group(LIMIT_S)
    late = threading.Thread(target=lambda: world.rank and long_work(""))
    late.start()
    told: list[Any] = []
    beside = threading.Thread(
        target=lambda: told.append((late.join(), ranks.gather_objects(world.rank, group)))
    )
    beside.start()
    if world.rank:
        long_work("")
    print(ranks.gather_objects(world.rank), ranks.on_every_rank(lambda: world.rank))
    beside.join()
    print(told[0][1])


def failing(world: World) -> None:
    """The longer work ends with an error, for all, and rank 1 is late for the end."""

    def work() -> None:
        raise WorkError(long_work("the disk is full"))

    try:
        ranks.on_first_rank(work)
    except WorkError as error:
        print(error)
    if world.rank:
        long_work("")


def standing_still(world: World) -> None:
    """Rank 1 is stopped while rank 0 waits."""
    if world.rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    ranks.barrier()


def dying(world: World) -> None:
    """Rank 1 dies while rank 0 waits."""
    if world.rank == 1:
        os._exit(3)
    ranks.barrier()


def leaving(world: World) -> None:
    """Rank 1 fails on its own and leaves, while rank 0 waits."""
    try:
        if world.rank == 1:
            raise WorkError("rank 1 cannot go on")
        ranks.barrier()
    finally:
        ranks.stop(world)


def start(words: Sequence[str]) -> None:
    """Run what is named."""
    waiting.LEAST_PATIENCE_S = LIMIT_S if words[0] == "standing_still" else 60.0

    def main() -> int:
        world = ranks.start("cpu", LIMIT_S)
        globals()[words[0]](world)
        ranks.stop(world)
        return 0

    end_with(main)
