"""Ranks and communication between them: start, stop, and the few reductions the project needs.

`core/environment.py` says which rank this is. Tasks of `srun` meet by a file (`rendezvous.py`); for all
others the rendezvous is torch's `env://`, which also honours the agent's store under torchrun.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from core import environment
from core.distributed import waiting
from core.distributed.binding import bind
from core.distributed.device_choice import device_of, require_own
from core.distributed.rendezvous import by_environment, meet
from core.environment import Place
from core.errors import UserError, WorkError

TIMEOUT_S = 1800.0

Group = dist.ProcessGroup | None
"""Who talks to each other, None for the group of everything else."""

_leave: Callable[[], Any] = dist.destroy_process_group


@dataclass(frozen=True)
class World:
    """The identity of this process: rank of size, local_rank on its node, and the device it computes on."""

    rank: int
    size: int
    local_rank: int
    device: torch.device


def start(device: str = "auto", timeout_s: float = TIMEOUT_S, *, folder: Path | None = None) -> World:
    """Join the process group of all ranks that were started together.

    device: "auto" takes CUDA where there is one. The backend follows: nccl on CUDA, gloo on CPU.
    timeout_s: how long a collective may wait before it fails on all ranks, and how long a rank may give no
    sign of life while others wait for its work (`waiting.py`).
    folder: the job's output, in which tasks of `srun` publish their rendezvous.
    """
    place = environment.place()
    environment.local_rank_for_libraries()
    rank, size = (place.rank, place.size) if place.size > 1 else (0, 1)
    chosen = device_of(device, place.local_rank)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
        bind(chosen, place.local_size)
        # The last collectives of every rank, for the watchdog to write down.
        os.environ.setdefault("TORCH_FR_BUFFER_SIZE", "2000")
    # Gloo then connects only ranks that communicate: all pairs take 1,023 descriptors in a group of 1,024.
    os.environ.setdefault("TORCH_GLOO_LAZY_INIT", "1")
    if not dist.is_initialized():
        store = _rendezvous(place, folder, timeout_s)
        if chosen.type == "cuda" and size > 1:
            store = store or by_environment(rank, size, timeout_s)
            require_own(store, chosen, rank, size)
        dist.init_process_group(
            "nccl" if chosen.type == "cuda" else "gloo",
            init_method="env://" if store is None else None,
            store=store,
            rank=rank,
            world_size=size,
            timeout=timedelta(seconds=timeout_s),
            # NCCL connects at once, and later groups are split off it, without a rendezvous of their own.
            device_id=chosen if chosen.type == "cuda" else None,
        )
    waiting.begin(timeout_s)
    waiting.meet()  # ranks that wait for each other are connected, and notice when one has died
    return World(rank, size, place.local_rank, chosen)


def planned(device: str, processes: int) -> World:
    """Return the first rank of a job that is not started: where it would compute, and with how many others.

    The CPU stands in for a GPU that this machine does not have.
    """
    return World(0, processes, 0, device_of("cpu" if device == "cpu" else "auto", 0))


def stop(world: World) -> None:
    """Leave the process group (collective: all ranks, after their last collective).

    A rank that leaves because of an error waits for no other, since its peers may never get here.
    """
    if dist.is_initialized():
        if sys.exc_info()[0] is None:
            waiting.meet()
        waiting.end()
        _leave()


def leave_with(leave: Callable[[], Any]) -> None:
    """Have `stop` call this instead of torch's own, for a library that keeps references to groups."""
    global _leave
    _leave = leave


def set_timeouts(timeout_s: float) -> None:
    """Give every process group this timeout.

    Libraries create groups of their own without one (DeepSpeed's ZeRO 1 and 2 then wait 30 minutes for a dead
    peer whatever was asked for at the start), so it is set again once all groups exist.
    """
    from torch.distributed import distributed_c10d as c10d

    for group in list(c10d._world.pg_map):
        c10d._set_pg_timeout(timedelta(seconds=timeout_s), group)


def side_group(timeout_s: float) -> Group:
    """Make a group of all ranks for one thread beside the main one (collective: all ranks).

    Collectives of two threads on one group may meet in another order on another rank, and wait for ever; on a
    group of its own a thread's collectives have one order. On the CPU, so that no GPU stream waits for it.
    """
    waiting.meet()
    group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_s))
    waiting.meet(group)
    return group


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Return the sum of every rank's tensor, as a new tensor on the same device (collective: all ranks)."""
    return _reduce(tensor, dist.ReduceOp.SUM)


def max_over_ranks(tensor: Tensor, group: Group = None) -> Tensor:
    """Return the elementwise maximum of every rank's tensor, as a new tensor (collective: the group)."""
    return _reduce(tensor, dist.ReduceOp.MAX, group)


def is_first() -> bool:
    """Return whether this is rank 0, which logs and publishes for all."""
    return not dist.is_initialized() or dist.get_rank() == 0


def barrier(group: Group = None) -> None:
    """Wait until every rank is here, without a time limit while they are alive (collective: all ranks)."""
    waiting.meet(group)


def broadcast_object(value: Any, group: Group = None) -> Any:
    """Return rank 0's `value` on every rank (collective: all ranks); for small, plain values.

    It waits for rank 0 as long as that is alive, and so do all functions below.
    """
    return waiting.exchange(value if is_first() else None, lambda values: values[0], group)


def on_first_rank(work: Callable[[], Any]) -> Any:
    """Return the first rank's `work()` on every rank, or raise its UserError or WorkError (collective)."""
    result, failure = outcome(work) if is_first() else (None, None)
    result, failure = broadcast_object((result, failure))
    if failure:
        raise failure[0](*failure[1])
    return result


def on_every_rank(work: Callable[[], Any]) -> list[Any]:
    """Gather every rank's small, plain `work()` in rank order, or raise the first failure (collective)."""
    outcomes = gather_objects(outcome(work))
    for _, failure in outcomes:
        if failure:
            raise failure[0](*failure[1])
    return [result for result, _ in outcomes]


Failure = tuple[type[UserError | WorkError], tuple[str, ...]]
"""An error as it is sent to other ranks: its class, and the words that make it again."""


def outcome(work: Callable[[], Any]) -> tuple[Any, Failure | None]:
    """Return the result of `work`, or the error that it raises."""
    try:
        return work(), None
    except UserError as error:  # field by field, so that a caller can still put a path before the field
        given = (error.field,) if error.expected is None else (error.field, str(error.value), error.expected)
        return None, (UserError, given)
    except (WorkError, OSError) as error:
        return None, (WorkError, (str(error),))


def gather_objects(value: Any, group: Group = None) -> list[Any]:
    """Gather every rank's small, plain `value` on every rank, in rank order (collective: all ranks)."""
    gathered: list[Any] = waiting.exchange([value], joined, group)
    return gathered


def joined(lists: Sequence[list[Any]]) -> list[Any]:
    """Return one list of the values of several, for `waiting.exchange`."""
    return [value for values in lists for value in values]


class PendingSum:
    """A sum over ranks that is under way: started early, read late, so that it hides behind other work."""

    def __init__(self, tensor: Tensor) -> None:
        """Start to sum `tensor` in place; it must lie on the world's device (collective: all ranks)."""
        self._tensor = tensor
        several = dist.is_initialized() and dist.get_world_size() > 1
        self._work = dist.all_reduce(tensor, async_op=True) if several else None

    def wait(self) -> Tensor:
        """Wait for the sum and return it."""
        if self._work is not None:
            self._work.wait()
            self._work = None
        return self._tensor


def _rendezvous(place: Place, folder: Path | None, timeout_s: float) -> Any:
    """Return the store at which ranks meet; None where torch finds it by `env://`."""
    if place.size == 1:
        return torch._C._distributed_c10d.HashStore()
    if place.starter in ("srun", "submitit"):
        return meet(place, folder, timeout_s)
    return None


def _reduce(tensor: Tensor, operation: Any, group: Group = None) -> Tensor:
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return tensor.clone()
    on_device = tensor.to("cuda" if dist.get_backend() == "nccl" else "cpu", copy=True)
    dist.all_reduce(on_device, op=operation, group=group)
    return on_device.to(tensor.device)
