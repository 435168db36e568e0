"""Facts about a rank's node: versions, device, disk, and their speed."""

from __future__ import annotations

import os
import platform
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch

from core import environment
from core.distributed.ranks import World
from core.faults.failpoints import failpoint
from core.preflight.node import driver_version, write_speed

MATMUL_S = 0.3  # of measuring, after one product that is not timed
SIDE = {"cuda": 8192, "cpu": 768}  # of the square matrices: tens of milliseconds at most


@dataclass(frozen=True)
class Facts:
    """A rank's facts about its node and device.

    versions: of the driver and libraries, which must agree.  clock_s: the node's time when all ranks were
    asked.  free_bytes: of memory on the device (on a CPU, of the node).  write_bytes_s: into the run's
    folder, of the first rank of each node, else None.  flops: of a matrix product, per second.
    is_right: whether that product was right.
    """

    rank: int
    node: str
    device: str
    versions: dict[str, str]
    clock_s: float
    total_bytes: int
    free_bytes: int
    disk_free_bytes: int
    write_bytes_s: float | None
    flops: float
    is_right: bool
    links: dict[str, float] = field(default_factory=dict)


def measure(world: World, folder: Path) -> Facts:
    """Measure this rank's node and device; `folder` exists.  OSError where it cannot be written."""
    clock = time.time()
    free, total = _memory(world.device)
    flops, is_right = _matmul(world.device)
    return Facts(
        rank=world.rank,
        node=environment.node(),
        device=_name(world.device),
        versions=_versions(world.device),
        clock_s=clock,
        total_bytes=total,
        free_bytes=free,
        disk_free_bytes=shutil.disk_usage(folder).free,
        write_bytes_s=write_speed(folder) if world.local_rank == 0 else None,
        flops=flops,
        is_right=is_right,
    )


def _versions(device: torch.device) -> dict[str, str]:
    found = {"Python": platform.python_version(), "torch": torch.__version__}
    if device.type == "cuda":
        found |= {"CUDA": str(torch.version.cuda), "driver": driver_version()}
        found["NCCL"] = ".".join(map(str, torch.cuda.nccl.version()))
    return found


def _name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"


def _memory(device: torch.device) -> tuple[int, int]:
    """Return free and total bytes of memory."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)
    page = os.sysconf("SC_PAGE_SIZE")
    return page * os.sysconf("SC_AVPHYS_PAGES"), page * os.sysconf("SC_PHYS_PAGES")


def _matmul(device: torch.device) -> tuple[float, bool]:
    """Return operations a second of a matrix product, and whether every one of its entries was right.

    The factors hold small whole numbers, so a right product is exact, whatever the order of its sums: row i
    of the first factor is i % 7 everywhere, and the second is 1.
    """
    side = SIDE[device.type]
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    rows = (torch.arange(side, device=device) % 7).to(dtype)
    a, b = rows[:, None].expand(side, side).contiguous(), torch.ones(side, side, dtype=dtype, device=device)
    product = a @ b
    wait(device)
    count, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < MATMUL_S:
        product = a @ b
        wait(device)
        count += 1
    expected = (rows.float() * side).to(dtype)
    product = failpoint("preflight.product", product)
    return 2 * side**3 * count / passed, bool((product == expected[:, None]).all())


def wait(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
