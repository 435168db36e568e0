"""Run: pytest tests/core/checkpoint/test_pace.py"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path

import pytest
import torch

from core.checkpoint import pace, tensor_file
from core.checkpoint.pace import Pace
from core.checkpoint.tensor_file import write_tensors


class Clock:
    """A clock whose time passes only in waits."""

    def __init__(self) -> None:
        self.now, self.waits = 100.0, list[float]()

    def monotonic(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds


def test_a_paced_file_is_the_same_and_never_far_ahead_of_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tensor_file, "CHUNK_BYTES", 1000)
    monkeypatch.setattr(pace, "SYNC_BYTES", 4000)
    clock, synced = Clock(), list[int]()
    monkeypatch.setattr(pace, "time", clock)
    monkeypatch.setattr(os, "fdatasync", lambda file: synced.append(os.fstat(file).st_size))
    tensors = {"a": torch.randn(3000), "b": torch.randn(7)}
    paced = Pace(12028, 1.2028e-5)  # a byte a nanosecond
    monkeypatch.setattr(paced._hurried, "wait", clock.wait)
    record = write_tensors(tmp_path / "paced", tensors, paced)
    assert record == write_tensors(tmp_path / "plain", tensors)
    assert (tmp_path / "paced").read_bytes() == (tmp_path / "plain").read_bytes()
    assert max(b - a for a, b in zip([0, *synced], [*synced, record.size], strict=True)) < 5000
    assert clock.now - 100 == pytest.approx(record.size * 1e-9)
    assert max(clock.waits) == pytest.approx(1e-6)  # evenly, a piece at a time


def test_a_write_is_not_spread_further_than_it_needs() -> None:
    assert Pace(3 * 10**8, 1000).seconds == 3 * 10**8 / pace.LEAST_BYTES_PER_S
    assert Pace(3 * 10**8, 0.5).seconds == 0.5


def test_hurry_ends_the_waiting(tmp_path: Path) -> None:
    tensors = {"a": torch.zeros(10**6)}
    slow = Pace(10**11, 1000)  # of which this is a small part: the first piece takes its share, 40 ms
    slow.seconds = 10**8
    writer = threading.Thread(target=write_tensors, args=(tmp_path / "x", tensors, slow))
    writer.start()
    writer.join(0.05)
    assert writer.is_alive()
    slow.hurry()
    writer.join(60)
    assert not writer.is_alive()
    assert (tmp_path / "x").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="priorities of threads are Linux's")
def test_the_threads_of_a_write_yield_and_no_others() -> None:
    seen, ours = list[int](), os.nice(0)

    def work() -> None:
        Pace(1, 1).yield_processor()
        seen.append(os.nice(0))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [min(19, ours + pace.YIELD)]
    assert os.nice(0) == ours
