"""Measure the speed of communication between ranks: all together, and each with the next."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
import torch.distributed as dist

from core.distributed.ranks import World
from core.preflight.facts import wait

ELEMENTS = {"cuda": 1 << 26, "cpu": 1 << 20}  # float32: 256 MiB, 4 MiB
ROUNDS = 3


def measure_links(world: World) -> dict[str, float]:
    """Return bytes a second of an all-reduce over all ranks, and of a message to the next rank (collective).

    all_reduce: 2 (N − 1) / N times the buffer over the time, which does not depend on the number of ranks.
    to_next: from this rank to the one after it, while all others send to theirs.
    """
    if world.size == 1:
        return {}
    buffer = torch.zeros(ELEMENTS[world.device.type], device=world.device)
    got, size = torch.empty_like(buffer), buffer.numel() * buffer.element_size()
    after, before = (world.rank + 1) % world.size, (world.rank - 1) % world.size

    def pass_on() -> None:
        sent = [dist.P2POp(dist.isend, buffer, after), dist.P2POp(dist.irecv, got, before)]
        for work in dist.batch_isend_irecv(sent):
            work.wait()

    together = _seconds(lambda: dist.all_reduce(buffer), world.device)
    return {
        "all_reduce": 2 * (world.size - 1) / world.size * size / together,
        "to_next": size / _seconds(pass_on, world.device),
    }


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """Return the least time of some rounds, after one that opens connections."""
    least = float("inf")
    for number in range(1 + ROUNDS):
        dist.barrier()
        started = time.perf_counter()
        work()
        wait(device)
        least = min(least, time.perf_counter() - started) if number else least
    return least
