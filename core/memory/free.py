"""Measure how much memory a rank may still take: of its device, its control groups and the machine.

Imports nothing heavy.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import psutil

from core.files import read_text

USABLE = 0.8
"""Share of what is free that a run plans with: libraries, kernels and fragments take memory uncounted."""

_UNLIMITED = 1 << 60  # v1 writes the largest page-aligned number where there is no limit


class Free(NamedTuple):
    """Bytes that are free, and what has so many: a device, a control group or the machine."""

    bytes: int
    of: str


def free_memory(
    device: int | None = None, *, peers: int = 1, machine: int | None = None, root: Path = Path("/")
) -> Free:
    """Return the smallest of the limits that hold for the tensors of one rank.

    device: bytes free on the rank's own GPU; None for a rank that computes in the memory of the machine,
    which it shares evenly with the other ranks of the node, `peers` in all.
    machine: bytes that the machine has free; None asks the system.  root: of the system's files.
    """
    if device is not None:
        return Free(device, "the device")
    limits = [*control_groups(root)]
    limits.append(Free(psutil.virtual_memory().available if machine is None else machine, "the machine"))
    smallest = min(limits)
    return Free(max(0, smallest.bytes) // peers, smallest.of)


def control_groups(root: Path = Path("/")) -> Iterator[Free]:
    """Yield what is left below the limit of each control group that this process is in (v1 and v2).

    Limits of all groups above hold too. Pages of files that the kernel can drop at once count as free. Within
    a container a group may not be seen by its path; the root of the tree, which is read too, is its own then.
    """
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers == "":
            tree, names = root / "sys/fs/cgroup", ("memory.max", "memory.current", "inactive_file")
        elif "memory" in controllers.split(","):
            tree = root / "sys/fs/cgroup/memory"
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
        else:
            continue
        for group in _upwards(path):
            if (left := _left(tree / group, *names)) is not None:
                yield Free(left, f"control group /{group}")


def _upwards(path: str) -> list[str]:
    """Return the path of a group and of all above it, relative to the tree; the last is the root, ''."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    return ["/".join(parts[:count]) for count in range(len(parts), -1, -1)]


def _left(group: Path, limit_name: str, usage_name: str, reclaimable: str) -> int | None:
    limit, usage = _read(group / limit_name).strip(), _read(group / usage_name).strip()
    if not limit.isdigit() or not usage.isdigit() or int(limit) >= _UNLIMITED:
        return None  # "max", or a file that is not there
    kept = 0
    for line in _read(group / "memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name == reclaimable and value.isdigit():
            kept = int(value)
    return max(0, int(limit) - max(0, int(usage) - kept))


def _read(path: Path) -> str:
    """Return the text of one of the kernel's files; '' where it is missing or may not be read."""
    with contextlib.suppress(OSError):
        return read_text(path)
    return ""
