"""The device on which a process computes."""

from __future__ import annotations

from typing import Any

import torch

from core import environment
from core.errors import UserError

_KEY = "longtake/device"


def own_device(device: str = "auto") -> torch.device:
    """Return the device of this process, which shares work through a folder and joins no group."""
    place = environment.place()
    environment.local_rank_for_libraries()
    chosen = device_of(device, place.local_rank)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    return chosen


def require_own(store: Any, device: torch.device, rank: int, size: int) -> None:
    """Raise UserError on every rank where two compute on one device (collective: all ranks).

    Call it before NCCL connects, which would fail or hang. The launcher's variables cannot show this: ranks
    started by hand, or with one visible device each, all take device 0.
    store: where the ranks have met.
    """
    found = torch.cuda.get_device_properties(device)
    owner = int(store.compare_set(f"{_KEY}/{environment.node()}/{found.uuid}", "", str(rank)))
    if owner != rank:
        store.set(f"{_KEY}/shared", f"ranks {owner} and {rank} have the same {found.name}")
    if store.add(f"{_KEY}/count", 1) == size:
        store.set(f"{_KEY}/all", "here")
    store.wait([f"{_KEY}/all"])
    if store.check([f"{_KEY}/shared"]):
        told = store.get(f"{_KEY}/shared").decode()
        raise UserError("ranks", size, f"a CUDA device for each; {told}")


def device_of(name: str, local_rank: int) -> torch.device:
    """Return the device that `name` (auto, cpu or cuda) means for this rank of a node."""
    if name not in ("auto", "cpu", "cuda"):
        raise UserError("device", name, "auto, cpu or cuda")
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise UserError("device", name, "cpu, since no CUDA device is visible here")
    count = torch.cuda.device_count()
    # One visible device per task (SLURM --gpus-per-task=1) keeps its local rank above 0.
    index = 0 if count == 1 else local_rank
    if index >= count:
        raise UserError(f"local rank {local_rank} has no CUDA device; start at most {count} ranks a node")
    return torch.device("cuda", index)
