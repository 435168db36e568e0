"""Bind a rank to the CPUs beside its GPU, an even part of them where several GPUs are there.

Copies from pinned memory of another socket cross the link between sockets, and threads of ranks that share
all cores evict one another. Memory follows the binding, since Linux allocates pages on the node of the thread
that writes first. An existing binding (by SLURM, `taskset` or `numactl`) is kept.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from core.files import read_head

DEVICES = Path("/sys/bus/pci/devices")


def bind(device: torch.device, ranks_here: int, devices: Path = DEVICES) -> set[int]:
    """Bind this process and the threads that it starts from here on; return the CPUs, or an empty set.

    ranks_here: of this node; the others are taken to have the GPUs 0, 1, ... beside this one.  devices: the
    folder in which Linux describes them; where it does not, nothing is bound.
    """
    if device.type != "cuda" or not hasattr(os, "sched_setaffinity"):
        return set()
    allowed = os.sched_getaffinity(0)
    if len(allowed) < (os.cpu_count() or 1):
        return set()
    near = _near(device.index or 0, devices)
    if not near:
        return set()
    count = max(ranks_here, (device.index or 0) + 1)
    peers = [index for index in range(count) if _near(index, devices) == near]
    chosen = part(near, peers.index(device.index or 0), len(peers)) & allowed
    if chosen:
        os.sched_setaffinity(0, chosen)
    return chosen


def part(ranges: list[range], number: int, count: int) -> set[int]:
    """Return one of `count` parts of CPUs: of every range, since siblings of a core lie in different ones."""
    found: set[int] = set()
    for each in ranges:
        found |= set(each[len(each) * number // count : len(each) * (number + 1) // count])
    return found


def _near(index: int, devices: Path) -> list[range]:
    """Return the CPUs beside a GPU, as Linux lists them ("0-47,96-143"); [] where it does not say."""
    if index >= torch.cuda.device_count():
        return []
    found = torch.cuda.get_device_properties(index)
    names = ("pci_domain_id", "pci_bus_id", "pci_device_id")
    domain, bus, slot = (getattr(found, name, None) for name in names)  # earlier releases of torch have none
    if domain is None or bus is None or slot is None:
        return []
    path = devices / f"{domain:04x}:{bus:02x}:{slot:02x}.0" / "local_cpulist"
    text = read_head(path, 4096).decode("ascii", "replace").strip() if path.is_file() else ""
    pairs = [each.partition("-") for each in text.split(",") if each]
    return [range(int(first), int(last or first) + 1) for first, _, last in pairs]
