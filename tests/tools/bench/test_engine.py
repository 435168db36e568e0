"""The cost of this project's layer, measured on a real run. Run: pytest tests/tools/bench/test_engine.py"""

from __future__ import annotations

import contextlib
import json
import sys

import pytest
from torch.utils._python_dispatch import TorchDispatchMode

from core.distributed import ranks
from core.root import ROOT
from launch import cli
from tools.bench import engine

OURS = tuple(f"{ROOT}/{folder}/" for folder in ("core", "data", "tools"))


@pytest.mark.parametrize("kind", ["deepspeed", "fsdp2"])
def test_a_short_run_tells_our_part_of_a_step(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(engine, "STEPS", 8)
    monkeypatch.setattr(engine, "WARM_UP", 2)
    assert cli.main(["bench", "engine", f"output={tmp_path}", "floors=false", f"kind={kind}"]) == 0
    (row,) = json.loads((tmp_path / "engine.json").read_text())["rows"]
    whole, rest = (row["timings"][name]["seconds"] for name in ("longtake", engine.REST[kind]))
    assert len(whole) == 6
    assert all(0 < part < step for step, part in zip(whole, rest, strict=True))
    own = sorted(step - part for step, part in zip(whole, rest, strict=True))
    assert row["facts"]["our ms a step, least"] == pytest.approx(1e3 * own[0])
    assert row["floors"][0]["value"] == pytest.approx(1e3 * (own[2] + own[3]) / 2)
    assert [floor["floor"] for floor in row["floors"]] == [0.3, 0.02]
    assert all(seconds > 0 for seconds in row["timings"][engine.BARE]["seconds"])
    parts = [name for name in row["facts"] if name.startswith("of it in ")]
    assert len(parts) >= 3  # forward, backward and step, at the least


class Operations(TorchDispatchMode):
    """Counts torch's operations in a step outside the functions that the stopwatch is around."""

    def __init__(self) -> None:
        super().__init__()
        self.inside, self.names, self.steps = 0, [], []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if not self.inside:
            self.names.append(function.overloadpacket.__name__)
        return function(*args, **(kwargs or {}))

    def leaving_out(self, function):
        def inner(*arguments, **options):
            self.inside += 1
            try:
                return function(*arguments, **options)
            finally:
                self.inside -= 1

        return inner


def test_our_layer_takes_few_operations_and_calls_and_reads_one_number(tmp_path, monkeypatch):
    """An operation costs 5 to 15 microseconds, and on CUDA `_local_scalar_dense` waits for the device.

    A function of ours costs about 2, after a pass of the network has taken it out of the caches.
    """
    operations, called = Operations(), []

    def note(frame, event, _):
        if event == "call" and not operations.inside and frame.f_code.co_filename.startswith(OURS):
            called[-1].append(frame.f_code.co_qualname)

    monkeypatch.setattr(engine.Stopwatch, "around", lambda _, function: operations.leaving_out(function))

    @contextlib.contextmanager
    def counted(_):
        operations.names = []
        called.append([])
        sys.setprofile(note)
        try:
            yield
        finally:
            sys.setprofile(None)
        operations.steps.append(operations.names)

    monkeypatch.setattr(engine.Stopwatch, "step", counted)
    world = ranks.start("cpu")
    try:
        trainer, _ = engine._trainer(tmp_path, world, 12)
        with operations:
            trainer.fit()
    finally:
        ranks.stop(world)
    plain, writing = operations.steps[5], operations.steps[9]
    assert plain == ["mse_loss", "mean", "detach", "mean", "_local_scalar_dense"]
    assert writing[: len(plain)] == plain
    assert len(writing) <= len(plain) + 60  # for the rows of ten steps
    assert min(map(len, called)) <= 95, called[5]


def test_the_stopwatch_counts_only_what_it_is_around():
    clock = engine.Stopwatch(engine.torch.device("cpu"))
    timed = clock.around(lambda a, b: a + b)
    assert timed(1, b=2) == 3
    first = clock.seconds
    assert first > 0
    timed(1, 1)
    assert clock.seconds > first


def test_on_a_gpu_the_stopwatch_waits_before_it_starts_and_before_it_stops(monkeypatch):
    order = []
    monkeypatch.setattr(engine.hardware, "wait", lambda device: order.append(device.type))
    monkeypatch.setattr(engine.time, "perf_counter", lambda: order.append("clock") or 0.0)
    engine.Stopwatch(engine.torch.device("cuda")).around(lambda: order.append("work"))()
    assert order == ["cuda", "clock", "work", "cuda", "clock"]
