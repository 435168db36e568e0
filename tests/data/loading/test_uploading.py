"""Batches are sent to a GPU by a stream of their own; on a stand-in here, and on a GPU where there is one."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch

from core.batch import Batch, Condition
from data.loading import uploading
from data.loading.ahead import read_ahead
from tests.stand_in_gpu import GPU, gpu


def batch(number: int, pin: bool = False) -> Batch:
    x = torch.full((2, 1, 4, 1, 8, 8), float(number))
    ids = torch.arange(2)
    return Batch(
        x.pin_memory() if pin else x, ids, ids, torch.ones(2), Condition(label=ids, text=x[:, 0, :, 0])
    )


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Have streams tell what they do."""
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
    return told


def test_the_step_waits_for_the_copy_and_keeps_its_memory(told: list[str]) -> None:
    load = uploading.ahead(lambda step_index: [batch(step_index)], torch.device("cpu"))
    (sent,) = load(3)
    assert told == ["on the stream of copies", "sent"]
    there = sent.to(torch.device("cpu"))
    assert told[2:] == ["the step waits for event", *["kept"] * 6]  # x, id, position, weight, label, text
    assert float(there.x[0, 0, 0, 0, 0, 0]) == 3


def test_pixels_are_sent_as_bytes_and_become_numbers_in_their_step(told: list[str]) -> None:
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 1, 16, 16)
    ids = torch.zeros(1, dtype=torch.int64)
    with gpu() as waits:
        (sent,) = uploading.ahead(lambda step: [Batch(pixels, ids + step, ids, torch.ones(1))], GPU)(5)
        assert (sent.x.dtype, sent.x.device, told) == (torch.uint8, GPU, ["on the stream of copies", "sent"])
        there = sent.to(GPU)
        assert told[2] == "the step waits for event"
        assert waits == []
    assert torch.equal(there.x.inner, pixels / 127.5 - 1)  # type: ignore[attr-defined]


def test_steps_are_sent_to_a_gpu_by_the_thread_that_reads_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of every kind of source, of online encoding and of an autoencoder's training too."""
    sent: list[str] = []

    class Upload:
        def __init__(self, device: torch.device) -> None:
            assert device == GPU

        def send(self, batches: list[Batch]) -> list[Batch]:
            sent.append(threading.current_thread().name)
            return batches

    monkeypatch.setattr(uploading, "Upload", Upload)
    steps = uploading.steps_ahead(lambda number: [batch(number)], GPU, 2)(3)
    assert [int(found.x.flatten()[0]) for (found,), _ in zip(steps, range(2), strict=False)] == [3, 4]
    assert set(sent) == {"read-ahead"}


def test_on_a_cpu_steps_are_read_ahead_and_not_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploading, "Upload", lambda device: pytest.fail("sent to a CPU"))
    steps = uploading.steps_ahead(lambda number: [batch(number)], torch.device("cpu"), 2)(3)
    assert [int(found.x.flatten()[0]) for (found,), _ in zip(steps, range(2), strict=False)] == [3, 4]


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
