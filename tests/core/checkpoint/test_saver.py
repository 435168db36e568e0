"""Saving while training goes on, on one rank. Run: pytest tests/core/checkpoint/test_saver.py"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from core.batch import Batch
from core.checkpoint import save_thread
from core.checkpoint.reader import CheckpointReader
from core.checkpoint.snapshot import HostMemory
from core.checkpoint.store import CheckpointStore
from core.distributed.ranks import World
from core.errors import WorkError
from core.faults import failpoints
from core.train.trainer import Trainer
from tests.core.toy_run import toy_trainer

write_checkpoint = save_thread.write_checkpoint


def checkpoints(folder: Path) -> dict[int, Path]:
    return {entry.step: entry.path for entry in CheckpointStore(folder / "checkpoints").complete()}


def signal_at(trainer: Trainer, step: int, reached: threading.Event) -> None:
    """Set `reached` when the loop asks for the data of `step`."""
    batches = trainer.data.batches

    def watched(first: int) -> Iterator[list[Batch]]:
        for number, parts in enumerate(batches(first), start=first):
            if number == step:
                reached.set()
            yield parts

    trainer.data = replace(trainer.data, batches=watched)


def test_a_checkpoint_is_of_its_moment_though_training_goes_on(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The write after step 3 waits until training has done two more steps, and changed all weights."""
    reached = threading.Event()

    def late(*arguments: Any, **named: Any) -> None:
        assert reached.wait(timeout=60), "training does not go on during the write"
        write_checkpoint(*arguments, **named)

    monkeypatch.setattr(save_thread, "write_checkpoint", late)
    trainer = toy_trainer(tmp_path / "async", world, steps=6, zero_stage=2)
    signal_at(trainer, 5, reached)
    trainer.fit()
    monkeypatch.undo()
    toy_trainer(tmp_path / "sync", world, steps=6, zero_stage=2, save_async=False).fit()
    for step, path in checkpoints(tmp_path / "async").items():
        one, other = CheckpointReader(path), CheckpointReader(checkpoints(tmp_path / "sync")[step])
        one.verify()
        assert one.kinds == other.kinds
        for kind in one.kinds:
            a, b = one.full(kind), other.full(kind)
            assert all(torch.equal(a[name], b[name]) for name in a), (step, kind)
        own = {name: one.state()[name] for name in ("config", "records")}  # rows hold times, of some digits
        assert one.state() == other.state() | own
        assert all(torch.equal(value, other.fixed()[name]) for name, value in one.fixed().items())
    assert sorted(checkpoints(tmp_path / "async")) == [3, 6]


def test_who_waits_for_a_save_hurries_it(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write would take days; the next save, the end of the run and a failed training each hurry it."""

    class Slow(save_thread.Pace):
        def __init__(self, total: int, seconds: float, **named: bool) -> None:
            super().__init__(total, seconds, **named)
            self.seconds = 1e6

    monkeypatch.setattr(save_thread, "Pace", Slow)
    toy_trainer(tmp_path / "whole", world, steps=8).fit()
    assert sorted(checkpoints(tmp_path / "whole")) == [6, 8]
    failpoints.arm("step.data@step=4:raise")
    with pytest.raises(WorkError, match=r"step\.data"):
        toy_trainer(tmp_path / "failed", world).fit()
    assert sorted(checkpoints(tmp_path / "failed")) == [3]


def test_an_error_of_the_thread_ends_the_run_at_the_next_save(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise RuntimeError("connection closed by peer")

    monkeypatch.setattr(save_thread, "write_checkpoint", broken)
    trainer = toy_trainer(tmp_path, world, steps=9)
    with pytest.raises(RuntimeError, match="closed by peer"):
        trainer.fit()
    assert trainer.step == 6  # begun after 3, looked at before the next one


def test_a_save_under_way_is_finished_when_training_fails(world: World, tmp_path: Path) -> None:
    failpoints.arm("save.flush@step=3:sleep=0.5;step.data@step=4:raise")
    with pytest.raises(WorkError, match=r"step\.data"):
        toy_trainer(tmp_path, world).fit()
    assert list(checkpoints(tmp_path)) == [3]
    assert json.loads((tmp_path / "run.lock").read_text())["pid"] == 0


def test_a_failed_save_under_way_is_told_when_training_fails(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    failpoints.arm("save.flush@step=3:enospc;step.data@step=4:raise")
    with pytest.raises(WorkError, match=r"step\.data"):
        toy_trainer(tmp_path, world).fit()
    assert (
        "the last save failed: checkpoints/step-00000003.local.1 was not written" in capsys.readouterr().err
    )
    assert not list((tmp_path / "checkpoints").glob("step-*"))


def test_a_hint_that_cannot_be_written_costs_no_checkpoint(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(store: CheckpointStore, path: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(CheckpointStore, "note", full)
    toy_trainer(tmp_path, world, steps=6).fit()
    assert sorted(checkpoints(tmp_path)) == [3, 6]
    assert "step-00000006.local.1 is whole, but no hint to it could be written" in capsys.readouterr().err


def test_host_memory_is_used_again() -> None:
    memory, state = HostMemory(), {"a": torch.arange(4.0), "b": torch.ones(3)}
    first = memory.copy(state)
    state["a"] += 1
    assert first["a"].tolist() == [0, 1, 2, 3]
    second = memory.copy(state)
    assert second["a"].data_ptr() == first["a"].data_ptr()
    assert second["a"].tolist() == [1, 2, 3, 4]


@pytest.mark.cuda
def test_host_memory_for_cuda_is_pinned() -> None:
    state = {"a": torch.arange(1 << 20, device="cuda", dtype=torch.float32)}
    memory = HostMemory()
    copied = memory.copy(state)
    memory.hold()
    state["a"].zero_()
    memory.wait()
    assert copied["a"].is_pinned()
    assert torch.equal(copied["a"], torch.arange(1 << 20, dtype=torch.float32))
