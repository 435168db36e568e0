"""Whether kernels are faster than what they stand for, on a GPU: what decides `engine.kernels`."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch

from core import draws
from core.batch import Batch, Condition
from core.draws import Draws
from data.latent.normalising import Normaliser
from models.attention.measuring import seconds_on_gpu
from models.kernels.kinds import mixer
from models.layers import transformer
from tests.tools.train.test_mixing import COUNTED
from tools.train.objective import LatentObjective

pytestmark = pytest.mark.cuda


def seconds(call: Callable[[], Any]) -> float:
    """Return the least time of a call on the GPU, once things are set up."""
    call()
    return seconds_on_gpu(call)


def host_seconds(call: Callable[[], Any]) -> float:
    """Return the least time in which the host queues a call: a step waits for it where the GPU is faster."""
    best = float("inf")
    for _ in range(8):
        torch.cuda.synchronize()
        began = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - began)
    return best


def tell(what: str, found: dict[str, float], capsys: Any) -> None:
    with capsys.disabled():
        print(f"\n{what}: " + ", ".join(f"{name} {taken * 1e6:.0f} us" for name, taken in found.items()))


@pytest.mark.parametrize("per_token", [False, True])
def test_adaln_beats_the_functions_as_they_are_written(per_token: bool, capsys: Any) -> None:
    """Forward and backward, DiT-XL/2 at 64 samples. Beside it the same compiled, which `auto` would take."""
    from models.kernels import adaln

    shape = (64, 256, 1152)
    x, y = (torch.randn(shape, device="cuda", dtype=torch.bfloat16).requires_grad_() for _ in range(2))
    size = (64, 256 if per_token else 1, 6 * 1152)
    product = torch.randn(size, device="cuda", dtype=torch.bfloat16).requires_grad_()
    slopes = [torch.randn_like(x) for _ in range(2)]
    plain = transformer.gated_norm_modulate
    compiled = torch.compile(plain, dynamic=False)
    ways = {"written": plain, "compiled": compiled, "kernel": adaln.gated_norm_modulate}

    def call(function: Callable[..., Any]) -> None:
        gate, shift, scale = product.chunk(6, -1)[:3]
        torch.autograd.grad(function(x, gate, y, shift, scale), [x, y, product], slopes)

    found = {name: seconds(lambda function=function: call(function)) for name, function in ways.items()}
    tell(f"adaLN, per_token={per_token}", found, capsys)
    assert found["kernel"] < found["written"]


@pytest.mark.parametrize("name", COUNTED)
def test_one_pass_beats_noising_in_hundreds_of_operations(name: str, capsys: Any) -> None:
    """A micro-batch from stored moments to the network's input: 256 images, or 64 clips of 8 frames."""
    from core.kernels.draw_kernels import TritonDraws

    config, shape, frame_condition, unit = COUNTED[name]
    known: Any = {"frame_condition": frame_condition, "frames_per_level": unit}
    place = torch.arange(256 if shape[2] == 1 else 64, device="cuda")
    moments = torch.randn(len(place), *shape, device="cuda").half()
    batch = Batch(moments, place, place, place.float(), Condition(label=place))
    found = {}
    for way, on_gpu in (("written", None), ("kernel", TritonDraws())):
        objective = LatentObjective(config, Normaliser((0.0,) * 4, (1.0,) * 4), **known)
        if on_gpu is not None:
            objective.mix_by(mixer(torch.bfloat16))
        draws.on_gpu = on_gpu
        try:
            found[way] = seconds(partial(_noise, objective, batch))
            found[f"{way}, of the host"] = host_seconds(partial(_noise, objective, batch))
        finally:
            draws.on_gpu = None
    tell(f"draws and noising, {name}", found, capsys)
    moved = moments.numel() // shape[0] * (2 * shape[0] + 2 + 4 + (2 if frame_condition else 0))
    with capsys.disabled():
        print(f"the kernel has to move {moved / 1e6:.1f} MB: {moved / found['kernel'] / 1e12:.2f} TB/s")
    assert found["kernel"] < found["written"]
    assert found["kernel, of the host"] < found["written, of the host"]


def _noise(objective: LatentObjective, batch: Batch) -> None:
    objective.noised(batch, Draws(1, 2, batch.id, batch.position))


def test_draws_beat_operations_on_tensors(capsys: Any) -> None:
    from core.kernels.draw_kernels import TritonDraws

    ids = torch.arange(256, device="cuda")
    found = {}
    for name, on_gpu in (("written", None), ("kernel", TritonDraws())):
        draws.on_gpu = on_gpu
        try:
            found[name] = seconds(lambda: Draws(1, 2, ids, ids).normal("noise", (4, 32, 32)))
        finally:
            draws.on_gpu = None
    tell("draws", found, capsys)
    assert found["kernel"] < found["written"]
