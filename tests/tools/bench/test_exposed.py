"""Communication that nothing hides, and idle time. Run: pytest tests/tools/bench/test_exposed.py"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from tools.bench import exposed


def event(name: str, start: float, end: float, device: str = "CPU", inner: int = 0) -> Any:
    times, kind = SimpleNamespace(start=start, end=end), SimpleNamespace(name=device)
    return SimpleNamespace(name=name, time_range=times, device_type=kind, cpu_children=[None] * inner)


def test_what_lies_outside_of_all_computation_is_exposed() -> None:
    events = [event("gloo:all_reduce", 0, 10), event("gloo:all_gather", 8, 14), event("aten::mm", 4, 9)]
    events += [event("aten::linear", 0, 20, inner=1), event("ncclKernel", 0, 99, "CUDA")]
    assert exposed.exposed_us(events, "cpu") == (14.0, 9.0)
    assert exposed.idle_us([*events, event("aten::mm", 20, 21)], "cpu") == 6.0
    events = [event("ncclDevKernel_AllReduce", 0, 10, "CUDA"), event("gemm", 5, 30, "CUDA")]
    events += [event("aten::mm", 0, 99)]
    assert exposed.exposed_us(events, "cuda") == (10.0, 5.0)
    assert (exposed.idle_us(events, "cuda"), exposed.idle_us([], "cuda")) == (0.0, 0.0)
