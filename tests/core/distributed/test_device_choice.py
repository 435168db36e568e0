"""Ranks that compute on one device are named. Run: pytest tests/core/distributed/test_device_choice.py"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
import torch.distributed as dist

from core.distributed.device_choice import require_own
from core.errors import UserError


def told(monkeypatch: pytest.MonkeyPatch, uuids: list[str]) -> list[str]:
    """Return what each rank is told, "" for nothing, where rank r sees the device with the r-th id as 0."""
    store = dist.HashStore()
    facts = [SimpleNamespace(uuid=uuid, name="NVIDIA H200") for uuid in uuids]
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: facts[device])

    def rank(number: int) -> str:
        try:
            require_own(store, number, number, len(uuids))  # type: ignore[arg-type]
        except UserError as error:
            return str(error)
        return ""

    with ThreadPoolExecutor(len(uuids)) as pool:
        return list(pool.map(rank, range(len(uuids))))


def test_ranks_with_a_device_each_are_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(monkeypatch, ["GPU-1", "GPU-2", "GPU-3"]) == ["", "", ""]


def test_every_rank_is_told_of_two_on_one_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one that has a device of its own too: it would wait for the others for ever."""
    first, second, third = told(monkeypatch, ["GPU-1", "GPU-2", "GPU-1"])
    assert first == second == third
    assert first.startswith("ranks=3: expected a CUDA device for each; ranks ")
    assert ("0" in first and "2 have" in first) or "0 have" in first


def test_devices_of_other_nodes_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ids of devices differ everywhere; of partitions of one they may not."""
    store, facts = dist.HashStore(), SimpleNamespace(uuid="GPU-1", name="NVIDIA H200")
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: facts)
    monkeypatch.setenv("SLURMD_NODENAME", "a")
    assert store.compare_set("longtake/device/b/GPU-1", "", "0") == b"0"
    require_own(store, torch.device("cuda", 0), 1, 1)
