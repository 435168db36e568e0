"""The cost of a checkpoint, measured on a small state. Run: pytest tests/tools/bench/test_checkpoint.py"""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from core.checkpoint import pace
from core.checkpoint.snapshot import HostMemory, take
from core.checkpoint.writer import write_checkpoint
from core.distributed import ranks
from core.engine.network import MAIN, Network
from launch import cli
from models.denoisers.dit import DiTConfig
from tests.core.toy_run import toy_engine
from tools.bench import checkpoint, pacing


def test_a_small_state_gives_the_three_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = DiTConfig(width=64, depth=1, heads=2)
    monkeypatch.setitem(DiTConfig.presets, "DiT-B/2", small)
    monkeypatch.setattr(pacing, "NETWORK", small)
    monkeypatch.setattr(pace, "LEAST_BYTES_PER_S", 3e6)  # so that the small write lasts some steps
    monkeypatch.setattr(pacing, "BESIDE_S", 0.3)
    monkeypatch.setattr(pacing, "ALONE_S", 0.1)
    assert cli.main(["bench", "checkpoint", f"output={tmp_path}", "floors=false", "rounds=1"]) == 0
    copy, whole, steps = json.loads((tmp_path / "checkpoint.json").read_text())["rows"]
    assert set(copy["timings"]) == {"longtake", checkpoint.COPY}
    assert set(whole["timings"]) == {"longtake", checkpoint.RAW}
    assert copy["timings"]["longtake"]["units"] == whole["timings"]["longtake"]["units"] > 10**5
    assert "5 new files" in whole["protocol"]
    assert set(steps["timings"]) == {"longtake", pacing.ALONE}
    assert all(row["floors"] and row["facts"] is not None for row in (copy, whole, steps))
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_the_checks_see_what_is_wrong(tmp_path: Path) -> None:
    engine = toy_engine(ranks.start("cpu", 60), zero_stage=1)
    snapshot = take({MAIN: Network(engine)}, {"step": 1, "ema": []}, HostMemory())
    path = tmp_path / "step-00000001.x"
    write_checkpoint(path, snapshot, number=1, may_commit=lambda: None)
    small = {"manifest.json": (path / "manifest.json").read_bytes()}
    assert checkpoint.is_state(path, engine, None)
    assert checkpoint.is_snapshot(path, snapshot)
    for harm in ("nothing", "a number", "a small file", "a file too long"):
        raw = tmp_path / harm
        checkpoint.write_raw(raw, snapshot, small)
        if harm == "a number":
            next(iter(snapshot.tensors.values()))[-1] += 1
        elif harm == "a small file":
            (raw / "manifest.json").write_bytes(b"{}")
        elif harm == "a file too long":
            with open(raw / "rank-00000.safetensors", "ab") as file:
                file.write(b"x")
        assert checkpoint.is_raw(raw, snapshot, small) == (harm == "nothing")
        assert not raw.exists()
        assert checkpoint.is_snapshot(path, snapshot) == (harm == "nothing")
    engine.masters[0].data[0] += 1
    assert not checkpoint.is_state(path, engine, None)


def test_a_held_pace_stands_still_and_makes_up_for_nothing(tmp_path: Path) -> None:
    held = pacing.HeldPace(10**6, 0.1)
    held.seconds = 0.1
    done = threading.Event()

    def work() -> None:
        with open(tmp_path / "x", "wb") as file:
            held.wrote(file, 10)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert not done.wait(0.2)
    held.goes_on.set()
    assert done.wait(60)
    thread.join()
    assert held._begun is not None
