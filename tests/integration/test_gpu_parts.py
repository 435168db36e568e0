"""Other parts that must not wait for a GPU, on a stand-in. Run: pytest tests/integration/test_gpu_parts.py"""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from core.batch import Batch, in_numbers
from core.draws import Draws
from core.memory import host_memory
from core.memory.host_memory import HostMemory
from data.latent.beside.views import standing_still
from data.media.images import as_tensor, to_tensor
from models.attention.dispatch import attention
from models.autoencoder.kl import Autoencoder, KLConfig
from models.autoencoder.tiling_config import TilingConfig
from tests import stand_in_gpu
from tests.integration.tiny_run import make_autoencoder
from tests.stand_in_gpu import GPU, gpu, put
from tools.runs.encoders import AutoencoderEncoder
from tools.train_autoencoder.config import ReconstructionConfig
from tools.train_autoencoder.reconstruction_loss import ReconstructionObjective


def test_the_autoencoder_learns_encodes_and_decodes_without_waiting() -> None:
    config = KLConfig(width=8, channel_multipliers=(1, 1, 2), blocks=1)
    torch.manual_seed(0)
    plain, own = Autoencoder(config), Autoencoder(config)
    own.load_state_dict(plain.state_dict())
    pixels = torch.rand(2, 3, 5, 16, 16) * 2 - 1
    objective = ReconstructionObjective(ReconstructionConfig(), config)
    rows, draws = torch.arange(2), Draws(0, 0, torch.arange(2), torch.arange(2))
    expected = objective.loss(plain, Batch(pixels, rows, rows, torch.ones(2)), draws).loss
    expected.sum().backward()
    with gpu() as waits:
        put(own)
        batch = Batch(pixels, rows, rows, torch.ones(2)).to(GPU)
        losses = objective.loss(own, batch, draws.to(GPU))
        losses.loss.sum().backward()
        own.set_tiling(TilingConfig(pixels=8, frames=4))
        latents = own.encode(batch.x)[:, 0]
        own.decode(latents)
        assert {wait for wait in waits if "draws.py:to" not in wait} == set()
    torch.testing.assert_close(losses.loss.inner, expected.detach())
    gradients = ((a.grad.inner, b.grad) for a, b in zip(own.parameters(), plain.parameters(), strict=True))
    for found, truth in gradients:
        torch.testing.assert_close(found, truth, rtol=1e-4, atol=1e-5)


def test_encode_sends_pixels_as_bytes_and_latents_are_those_of_numbers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of mirrored pictures too, and of a last one that stands still; laid out as the numbers were."""
    make_autoencoder(tmp_path)
    encoder = AutoencoderEncoder(tmp_path, torch.device("cpu"), "fp32")
    frames = np.random.default_rng(0).integers(0, 256, (2, 5, 16, 16, 3), np.uint8)
    sent, numbers = as_tensor(frames), to_tensor(frames)
    views = [
        (sent, numbers),
        (sent.flip(-1), numbers.flip(-1)),
        (standing_still(sent), standing_still(numbers)),
    ]
    expected = [encoder.encode(of_numbers) for _, of_numbers in views]
    bytes_sent, moved = [], stand_in_gpu._moved

    def spied(name: str, args: Any, kwargs: Any) -> torch.Tensor:
        if type(args[0]) is torch.Tensor and args[0].dim() == 5:
            bytes_sent.append(args[0].nbytes)
        return moved(name, args, kwargs)

    monkeypatch.setattr(stand_in_gpu, "_moved", spied)
    with gpu():
        put(encoder.autoencoder)
        encoder.device = GPU
        found = [encoder.encode(of_bytes) for of_bytes, _ in views]
    assert bytes_sent == [frames.nbytes] * 3
    for (of_bytes, of_numbers), latents, truth in zip(views, found, expected, strict=True):
        assert torch.equal(in_numbers(of_bytes), of_numbers)
        assert in_numbers(of_bytes).stride() == of_numbers.stride()
        assert torch.equal(latents, truth)


@pytest.mark.parametrize("backend", ["sdpa", "chunked"])
def test_packed_attention_does_not_wait(backend: Any) -> None:
    with gpu() as waits:
        q = torch.randn(1, 9, 2, 8, device=GPU, requires_grad=True)
        attention(q, q, q, backend=backend, sizes=(4, 5)).sum().backward()
        attention(q, q, q, backend=backend, lengths=torch.tensor([3]).to(GPU, non_blocking=True))
        assert waits == []


def test_a_checkpoint_s_copy_runs_beside_the_next_step_and_is_waited_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    order: list[str] = []

    class Stream:
        def __init__(self, name: object = "copies") -> None:
            self.name = name if isinstance(name, str) else "copies"

        def wait_stream(self, other: Stream) -> None:
            order.append(f"{self.name} wait for {other.name}")

        def record_event(self) -> SimpleNamespace:
            order.append("begun")
            return SimpleNamespace(synchronize=lambda: order.append("host waits"))

        def wait_event(self, event: object) -> None:
            order.append(f"{self.name} waits for the copy")

    registered: list[int] = []
    runtime = SimpleNamespace(cudaHostRegister=lambda place, size, flags: registered.append(size) or 0)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream("the step"))
    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)
    monkeypatch.setattr(host_memory.weakref, "finalize", lambda *_: None)
    runtime.cudaHostUnregister = None
    memory = HostMemory()
    with gpu() as waits:
        state = {f"weight/{name}@0": torch.ones(3, device=GPU) for name in "ab"}
        state["moment/a@0"] = torch.ones(100, device=GPU)
        copied = memory.copy(state)
    assert waits == []
    assert registered == [128, 448]  # one buffer a kind, of its size, and no power of two
    assert order == ["copies wait for the step", "begun"]
    memory.hold()
    memory.wait()
    assert order[2:] == ["the step waits for the copy", "host waits"]
    assert all(type(tensor) is Tensor and set(tensor.tolist()) == {1} for tensor in copied.values())


def test_memory_that_cannot_be_pinned_fails_no_later_kernel(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """CUDA keeps the error of a call, and the next kernel that is started reads it."""
    left: list[int] = []
    runtime = SimpleNamespace(cudaHostRegister=lambda place, size, flags: left.append(2) or 2)
    monkeypatch.setattr(torch.cuda, "cudart", lambda: runtime)

    def zeros(*shape: Any, device: torch.device) -> None:
        if left:
            raise torch.AcceleratorError(f"CUDA error {left.pop()}")

    monkeypatch.setattr(torch, "zeros", zeros)
    buffer = HostMemory()._allocate("weight", 64, GPU)
    assert buffer.shape == (64,)
    assert left == []
    assert "could not be pinned (CUDA error 2)" in capsys.readouterr().err


def test_the_stand_in_notices_what_it_is_for() -> None:
    host = torch.arange(3.0)
    with gpu() as waits:
        there = host.to(GPU, non_blocking=True)
        assert waits == []
        with pytest.raises(RuntimeError, match="one device"):
            there + host
        with pytest.raises(TypeError, match="numpy"):
            there.numpy()
        wanted = {
            "aten._local_scalar_dense.default": lambda: float(there.sum()),
            "aten.nonzero.default": lambda: there.nonzero(),
            "aten.index.Tensor": lambda: there[there > 1],
            "tolist": lambda: there.tolist(),
            "to cpu": lambda: there.cpu(),
            "to cuda:0": lambda: host.to(GPU),
            "tensor": lambda: torch.tensor([1.0], device=GPU),
            "new_tensor": lambda: there.new_tensor([1.0]),
            "copy": lambda: there.copy_(host),
        }
        for what, wait in wanted.items():
            waits.clear()
            wait()
            assert waits == [f"a test ({what})"]
