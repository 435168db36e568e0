"""Stage 3 on GPUs, by a stand-in. Run: pytest tests/core/engine/test_partitions.py"""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from core.distributed.ranks import World
from core.engine.zero import partitions
from tests.core.toy_run import toy_engine


def test_a_task_that_sees_one_device_shares_out_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """DeepSpeed takes LOCAL_RANK for the number of a device, which is not there then."""
    monkeypatch.setenv("LOCAL_RANK", "3")
    seen: list[str] = []

    def init(**given: Any) -> Any:
        seen.append(os.environ["LOCAL_RANK"])
        return SimpleNamespace(_zero_init_param=seen.append)

    library = SimpleNamespace(zero=SimpleNamespace(Init=init))
    for device in (torch.device("cuda", 0), torch.device("cpu")):
        partitions.sharing(library, {}, torch.float32, device)
    assert seen == ["0", "3"]


def test_written_masters_are_waited_for_before_any_rank_gathers_them(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = toy_engine(world, zero_stage=3)
    parts = [p.ds_tensor for p in engine.module.parameters() if p.requires_grad]  # type: ignore[attr-defined]
    seen: list[set[float]] = []
    with torch.no_grad():
        for master in engine.masters:
            master.fill_(0.5)
    wait = SimpleNamespace(synchronize=lambda: seen.append({float(x) for part in parts for x in part}))
    from deepspeed.accelerator import get_accelerator  # which picks its device when it is imported

    monkeypatch.setattr(get_accelerator(), "is_synchronized_device", lambda: False)
    monkeypatch.setattr(get_accelerator(), "current_stream", lambda: wait)
    engine.refresh()
    assert seen == [{0.5}]


def test_frozen_weights_are_waited_for_where_they_were_written(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = toy_engine(world, zero_stage=3)
    frozen = [p for p in engine.module.parameters() if not p.requires_grad]
    seen: list[set[float]] = []
    parts = [p.ds_tensor for p in frozen]  # type: ignore[attr-defined]
    monkeypatch.setattr(
        partitions, "_settle", lambda: seen.append({float(x) for part in parts for x in part})
    )
    with partitions.gathered(frozen):
        pass
    assert seen == []
    ones = {name: torch.ones_like(tensor) for name, tensor in engine.fixed().items()}
    assert any(name.startswith("frozen/") for name in ones)
    engine.set_fixed(ones)
    assert seen == [{1.0}]
