"""Ranks are bound to the CPUs beside their GPUs; on a stand-in for Linux and for the GPUs."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from core.distributed.binding import bind, part

NEAR = {0: "0-3,8-11", 1: "0-3,8-11", 2: "4-7,12-15"}  # 2 sockets of 4 cores, each with 2 threads


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, set[int]]:
    """Return the CPUs that a process may use, of a machine with three GPUs."""
    state = {"cpus": set(range(16))}

    def properties(index: int) -> SimpleNamespace:
        return SimpleNamespace(pci_domain_id=0, pci_bus_id=0x1A + index, pci_device_id=0)

    for index, text in NEAR.items():
        folder = tmp_path / f"0000:{0x1A + index:02x}:00.0"
        folder.mkdir()
        (folder / "local_cpulist").write_text(f"{text}\n")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(NEAR))
    monkeypatch.setattr(torch.cuda, "get_device_properties", properties)
    monkeypatch.setattr(os, "cpu_count", lambda: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: state["cpus"])
    monkeypatch.setattr(os, "sched_setaffinity", lambda pid, cpus: state.update(cpus=set(cpus)))
    return state


def bound(index: int, ranks: int, machine: dict[str, set[int]], folder: Path) -> set[int]:
    machine["cpus"] = set(range(16))
    found = bind(torch.device("cuda", index), ranks, folder)
    assert not found or machine["cpus"] == found
    return found


def test_each_rank_has_its_part_of_the_cpus_beside_its_gpu(
    machine: dict[str, set[int]], tmp_path: Path
) -> None:
    assert bound(0, 3, machine, tmp_path) == {0, 1, 8, 9}  # both threads of a core
    assert bound(1, 3, machine, tmp_path) == {2, 3, 10, 11}
    assert bound(2, 3, machine, tmp_path) == {4, 5, 6, 7, 12, 13, 14, 15}
    assert bound(0, 1, machine, tmp_path) == {0, 1, 2, 3, 8, 9, 10, 11}


def test_whoever_has_bound_the_process_is_obeyed(machine: dict[str, set[int]], tmp_path: Path) -> None:
    machine["cpus"] = {5, 6}
    assert bind(torch.device("cuda", 0), 3, tmp_path) == set()
    assert machine["cpus"] == {5, 6}


def test_nothing_is_bound_where_linux_does_not_say(machine: dict[str, set[int]], tmp_path: Path) -> None:
    assert bound(0, 3, machine, tmp_path / "missing") == set()
    assert bind(torch.device("cpu"), 3, tmp_path) == set()


def test_parts_of_uneven_numbers_cover_all_once() -> None:
    ranges = [range(0, 7), range(20, 27)]
    parts = [part(ranges, number, 3) for number in range(3)]
    assert sorted(cpu for each in parts for cpu in each) == [*range(7), *range(20, 27)]
