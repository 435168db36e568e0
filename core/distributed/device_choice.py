"""The device on which a process computes."""

from __future__ import annotations

import torch
import torch.distributed as dist

from core import environment
from core.distributed import waiting
from core.errors import UserError


def own_device(device: str = "auto") -> torch.device:
    """Return the device of this process, which shares work through a folder and joins no group."""
    place = environment.place()
    environment.local_rank_for_libraries()
    chosen = device_of(device, place.local_rank)
    if chosen.type == "cuda":
        torch.cuda.set_device(chosen)
    return chosen


def require_own(device: torch.device, rank: int) -> None:
    """Raise UserError where another rank computes on this device: NCCL would fail at the first collective."""
    found = torch.cuda.get_device_properties(device)
    key = f"longtake/device/{environment.node()}/{found.uuid}"
    owner = int(waiting.store().compare_set(key, "", str(rank)))
    if owner != rank:
        expected = f"a CUDA device for each; ranks {owner} and {rank} have the same {found.name}"
        raise UserError("ranks", dist.get_world_size(), expected)


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
