"""Batches are sent to a GPU by a stream of their own; on a stand-in here, and on a GPU where there is one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from core.batch import Batch, Condition
from data.loading import uploading
from data.loading.ahead import read_ahead


def batch(number: int, pin: bool = False) -> Batch:
    x = torch.full((2, 1, 4, 1, 8, 8), float(number))
    ids = torch.arange(2)
    return Batch(
        x.pin_memory() if pin else x, ids, ids, torch.ones(2), Condition(label=ids, text=x[:, 0, :, 0])
    )


def test_the_step_waits_for_the_copy_and_keeps_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []

    class Stream:
        def __init__(self, name: Any) -> None:
            self.name = name

        def record_event(self) -> str:
            told.append("sent")
            return "event"

        def wait_event(self, event: str) -> None:
            told.append(f"{self.name} waits for {event}")

    @contextlib.contextmanager
    def on(stream: Stream) -> Iterator[None]:
        told.append("on the stream of copies")
        yield

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream("the step"))
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda tensor, stream: told.append("kept"))
    load = uploading.ahead(lambda step_index: [batch(step_index)], torch.device("cpu"))
    (sent,) = load(3)
    assert told == ["on the stream of copies", "sent"]
    there = sent.to(torch.device("cpu"))
    assert told[2:] == ["the step waits for event", *["kept"] * 6]  # x, id, position, weight, label, text
    assert float(there.x[0, 0, 0, 0, 0, 0]) == 3


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def test_pixels_become_numbers_on_the_device(device: str) -> None:
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 1, 16, 16)
    ids = torch.zeros(1, dtype=torch.int64)
    found = Batch(pixels, ids, ids, torch.ones(1)).to(torch.device(device)).x
    assert found.dtype == torch.float32
    assert torch.equal(found.cpu(), pixels.float() / 127.5 - 1)


@pytest.mark.cuda
def test_batches_arrive_whole_while_the_gpu_is_busy() -> None:
    device = torch.device("cuda", torch.cuda.current_device())
    load = uploading.ahead(lambda number: [batch(number, pin=True)], device)
    work = torch.randn(4096, 4096, device=device)
    for number, (sent,) in enumerate(read_ahead(load, 0, depth=2, stop=50)):
        work = work @ work / 64  # keeps the step's stream behind
        there = sent.to(device)
        assert there.x.device == device
        doubled = replace(there, x=there.x * 2)
        assert torch.equal(doubled.x.cpu(), torch.full(there.x.shape, 2.0 * number))
