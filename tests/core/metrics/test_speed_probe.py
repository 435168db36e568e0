"""Run: pytest tests/core/metrics/test_speed_probe.py"""

from __future__ import annotations

import pytest
import torch

from core.metrics.speed_probe import SIZE, TIMES, SpeedProbe
from tests.stand_in_gpu import GPU, gpu


class Event:
    """An event of a device on which products take 40, 30, 50 and 35 microseconds."""

    ends_ms = (1.0, 1.04, 1.07, 1.12, 1.155)
    recorded = 0

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        self.at_ms = Event.ends_ms[Event.recorded]
        Event.recorded += 1

    def elapsed_time(self, end: Event) -> float:
        return end.at_ms - self.at_ms


def test_the_fastest_product_counts_and_the_host_waits_for_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("core.metrics.speed_probe.SIZE", 8)
    monkeypatch.setattr(torch.cuda, "Event", Event)
    assert len(Event.ends_ms) == TIMES + 1
    with gpu() as waits:
        probe = SpeedProbe(GPU)
        probe.begin()
        assert probe.seconds == 0.0
        probe.read()
        assert waits == []
    assert probe.seconds == pytest.approx(30e-6)
    probe.read()  # nothing was begun
    assert probe.seconds == pytest.approx(30e-6)


def test_a_cpu_is_not_probed() -> None:
    probe = SpeedProbe(torch.device("cpu"))
    probe.begin()
    probe.read()
    assert probe.seconds == 0.0


@pytest.mark.cuda
def test_a_gpu_multiplies_within_its_limits() -> None:
    device = torch.device("cuda", 0)
    probe = SpeedProbe(device)
    probe.begin()
    torch.cuda.synchronize(device)
    probe.read()
    assert 1e12 < 2 * SIZE**3 / probe.seconds < 1e16
