"""Run: pytest tests/core/train/test_profiler.py"""

from __future__ import annotations

import gc
import json
from pathlib import Path

import pytest
import torch

from core.distributed.ranks import World
from core.errors import WorkError
from core.train.profiler import ProfileConfig, Profiler

WORLD = World(0, 1, 0, torch.device("cpu"))


def run(profiler: Profiler, steps: int) -> None:
    with profiler.running():
        for number in range(1, steps + 1):
            with profiler.step(number):
                torch.ones(3, 3) @ torch.ones(3, 3)


def products(path: Path) -> int:
    events = json.loads(path.read_text())["traceEvents"]
    return sum(event.get("name") == "aten::mm" for event in events)


def test_a_trace_holds_the_chosen_steps(tmp_path: Path) -> None:
    run(Profiler(tmp_path, ProfileConfig(profile_from=2, profile_steps=3), WORLD), 6)
    (trace,) = (tmp_path / "logs").iterdir()
    assert trace.name == "trace-step-2-to-4-rank-0.json"
    assert products(trace) == 3


def test_a_run_that_ends_early_still_leaves_its_trace(tmp_path: Path) -> None:
    run(Profiler(tmp_path, ProfileConfig(profile_from=2, profile_steps=30), WORLD), 3)
    (trace,) = (tmp_path / "logs").iterdir()
    assert products(trace) == 2


def test_other_ranks_write_none(tmp_path: Path) -> None:
    run(Profiler(tmp_path, ProfileConfig(profile_from=1), World(1, 2, 1, torch.device("cpu"))), 4)
    assert not (tmp_path / "logs").exists()


def test_garbage_is_collected_at_chosen_steps_only(tmp_path: Path) -> None:
    collections: list[int] = []
    profiler = Profiler(tmp_path, ProfileConfig(collect_every=3), WORLD)
    with profiler.running():
        assert not gc.isenabled()
        gc.callbacks.append(lambda phase, info: collections.append(number) if phase == "start" else None)
        try:
            for number in range(1, 8):
                with profiler.step(number):
                    _ = [[i] for i in range(5000)]  # enough for Python to collect by itself
        finally:
            gc.callbacks.pop()
    assert collections == [3, 6]
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0


def test_running_out_of_memory_is_one_line_and_leaves_a_snapshot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a GPU, torch's recorder is replaced by one that notes its calls."""
    asked: list[object] = []
    monkeypatch.setattr(torch.cuda.memory, "_record_memory_history", lambda **how: asked.append(how))
    monkeypatch.setattr(torch.cuda.memory, "_dump_snapshot", lambda path: Path(path).write_text("snapshot"))
    profiler = Profiler(tmp_path, ProfileConfig(profile_memory=True), World(3, 4, 3, torch.device("cuda")))
    says = "out of memory on rank 3 in step 5: CUDA out of memory"
    with pytest.raises(WorkError, match=f"^{says}$"), profiler.running(), profiler.step(5):
        raise torch.OutOfMemoryError("CUDA out of memory\nsee the documentation")
    assert (tmp_path / "logs" / "memory-rank-3.pickle").read_text() == "snapshot"
    assert asked == [{"max_entries": 100_000}, {"enabled": None}]
