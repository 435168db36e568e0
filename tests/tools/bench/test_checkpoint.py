"""What a checkpoint costs, measured on a small run. Run: pytest tests/tools/bench/test_checkpoint.py"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from core import distributed
from core.checkpoint import HostMemory, pace, take, write_checkpoint
from launch import cli
from models.dit import DiTConfig
from tests.core.toy_run import toy_engine
from tools.bench import checkpoint


def test_a_small_run_gives_the_three_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "NETWORK", DiTConfig(width=64, depth=1, heads=2))
    monkeypatch.setattr(pace, "LEAST_BYTES_PER_S", 1e6)  # so that the small writes last some steps
    words = [f"output={tmp_path}", "floors=false", "rounds=1", "save_every=8"]
    assert cli.main(["bench", "checkpoint", *words]) == 0
    copy, whole, steps = json.loads((tmp_path / "checkpoint.json").read_text())["rows"]
    assert set(copy["timings"]) == {"longtake", "memory copy"}
    assert set(whole["timings"]) == {"longtake", "raw write and fsync"}
    assert copy["timings"]["longtake"]["units"] == whole["timings"]["longtake"]["units"] > 10**5
    beside, alone = (steps["timings"][name]["seconds"] for name in ("longtake", checkpoint.ALONE))
    assert beside
    assert alone
    assert len(beside) + len(alone) <= 4 * 8 - checkpoint.WARM_UP
    assert all(row["floors"] for row in (copy, whole, steps))
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_the_checks_see_what_is_wrong(tmp_path: Path) -> None:
    engine = toy_engine(distributed.start("cpu", 60), zero_stage=1)
    snapshot = take(engine, None, {"step": 1, "ema": []}, HostMemory())
    flats = [flat.detach() for kind in checkpoint.state_tensors(engine, None).values() for flat in kind]
    assert checkpoint._is_state(snapshot, engine, flats)
    flats[-1].view(-1)[0] += 1
    assert not checkpoint._is_state(snapshot, engine, flats)
    for is_equal in (True, False):
        path = tmp_path / f"step-00000001.{is_equal}"
        write_checkpoint(path, snapshot, number=1, may_commit=lambda: None)
        if not is_equal:
            next(iter(snapshot.tensors.values())).add_(1.0)
        assert checkpoint._is_checkpoint(path, snapshot) == is_equal
        assert not path.exists()
    assert torch.isfinite(flats[0]).all()
