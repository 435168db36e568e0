"""A rank that starts, saves and gathers, and prints how many sockets it has then, and descriptors in all."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import torch

from core.checkpoint.snapshot import Layout, Snapshot
from core.checkpoint.writer import write_checkpoint
from core.distributed import ranks
from core.distributed.outcomes import first_of_ranks, least_of_ranks, tally_of_ranks
from core.run.ending import end_with


def opened() -> tuple[int, int]:
    """Return how many sockets this process has open, and how many descriptors in all."""
    links = [os.path.join("/proc/self/fd", name) for name in os.listdir("/proc/self/fd")]
    there = [os.readlink(link) for link in links if os.path.islink(link)]  # the listing's own has gone
    return sum(target.startswith("socket:") for target in there), len(there)


def start(words: Sequence[str]) -> None:
    """Save into the folder that is named."""

    def main() -> int:
        torch.set_num_threads(1)
        world = ranks.start("cpu", 60)
        group = ranks.side_group(60)
        ranks.sum_over_ranks(torch.ones(1000))
        layout = Layout(["weight"], {}, {"a": (world.size,)}, {"a": (0, 1)})
        tensors = {f"weight/a@{world.rank}": torch.ones(1)}
        state = {"step": 1, "updates": 1, "ema": []}
        snapshot = Snapshot(world.rank, world.size, tensors, {}, {"": layout}, state)
        write_checkpoint(Path(words[0]) / "step-1", snapshot, number=1, may_commit=lambda: None, group=group)
        assert ranks.gather_objects(world.rank) == list(range(world.size))
        assert first_of_ranks([world.rank] * 2, 3) == ([0, 0, 1], 2 * world.size)
        assert first_of_ranks([world.rank][: world.rank > 1], 3)[0] == list(range(2, min(5, world.size)))
        assert tally_of_ranks(["every", f"of {world.rank % 2}"])["of 1"] == world.size // 2
        assert least_of_ranks((world.rank != 2, world.rank)) == (False, 2)
        print(*opened())
        ranks.stop(world)
        return 0

    end_with(main)
