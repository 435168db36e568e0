"""Noisy batches in one pass over the moments: what the kernel is given, and how many operations are left."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from core import draws as drawing
from core.batch import Batch, Condition
from core.config.loading import load
from core.diffusion.frames.training_levels import wide
from core.diffusion.objectives.config import ObjectiveConfig
from core.diffusion.objectives.mixer import Ingredients, Mixed
from core.diffusion.paths import kinds as paths
from core.diffusion.timesteps import TimestepConfig
from core.draws import Draws
from core.philox import TensorDraws
from data.latent.normalising import Normaliser
from tests.integration.tiny_run import MODEL, STEP, make_autoencoder, make_latents, rows
from tests.stand_in_gpu import GPU, OnGpu, gpu
from tests.tools.train.mixing_cases import CASES, apart, noisy
from tools.train.config import Config
from tools.train.job import run
from tools.train.objective import LatentObjective

TABLE = "core/diffusion/paths/chain.py:_ends_on (to cuda:0)"  # of a chain, once in a process


@pytest.fixture(autouse=True)
def _plain() -> Iterator[None]:
    yield
    paths._made.cache_clear()  # a GPU that is real may come next


class TensorMixer:
    """What a kernel does, by operations on tensors."""

    dtype = torch.bfloat16

    def mix(self, given: Ingredients, *, keeps_all: bool) -> Mixed:
        mean = given.moments[:, 0].float()
        frames = mean.shape[2]
        count, device = mean[0].numel(), TensorDraws()
        if given.posterior is not None:
            drawn = device.normal(given.posterior, count).reshape(mean.shape)
            mean = mean + (0.5 * given.moments[:, 1].float()).exp() * drawn
        latents = (mean - given.mean[None, :, :, None, None]) / given.std[None, :, :, None, None]
        if given.is_picture is not None:
            assert given.still is not None
            last = (torch.arange(frames, device=mean.device) >= frames - given.unit)[None] & given.is_picture[
                :, None
            ]
            latents = torch.where(wide(last), given.still, latents)
        noise = device.normal(given.noise, count).reshape(mean.shape)
        alpha, sigma, of_data, of_noise = given.levels[:, :, None, :, None, None]
        x_t, target = alpha * latents + sigma * noise, of_data * latents + of_noise * noise
        kept = None if given.frame_mask is None else latents * wide(given.frame_mask)
        if keeps_all:
            return Mixed(x_t, target, latents, noise, kept)
        return Mixed(x_t.to(self.dtype), target, None, None, None if kept is None else kept.to(self.dtype))


@pytest.mark.parametrize("name", CASES)
def test_what_a_kernel_is_given_makes_the_noisy_batch_of_the_plain_operations(name: str) -> None:
    case, device, mixer = CASES[name], TensorDraws(), TensorMixer()
    device.device_type = "cpu"
    plain = noisy(case, None, None)
    mixer.dtype = torch.float32
    errors = apart(noisy(case, device, mixer), plain)
    assert {"x_t", "target", "time", "alpha", "sigma"} <= set(errors)
    assert max(errors.values()) < 1e-6, errors
    is_lean = name not in ("variance", "scaled input", "mean flow", "consistency")
    assert ("clean" in errors) != is_lean
    mixer.dtype = torch.bfloat16
    found = noisy(case, device, mixer)
    assert found.x_t.dtype == (torch.bfloat16 if is_lean else torch.float32)
    assert found.target.dtype == torch.float32
    if is_lean:
        with pytest.raises(ValueError, match="were not kept"):
            _ = found.x0


def test_given_frames_are_copied_at_time_0() -> None:
    device, mixer = TensorDraws(), TensorMixer()
    device.device_type, mixer.dtype = "cpu", torch.float32
    found = noisy(CASES["levels"], device, mixer)
    mask, given = found.condition.frame_mask, found.condition.frame_latents
    assert mask is not None
    assert given is not None
    is_given = wide(mask).expand_as(given) > 0
    assert is_given.any()
    assert torch.equal(found.x_t[is_given], given[is_given])
    assert not found.target[is_given].any()


@pytest.mark.parametrize("is_mixed", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_nothing_waits_for_the_gpu_in_noising(name: str, is_mixed: bool) -> None:
    with gpu() as waits:
        found = noisy(CASES[name], None, TensorMixer() if is_mixed else None, GPU)
        assert isinstance(found.x_t, OnGpu)
        assert [wait for wait in waits if wait != TABLE] == []


class Operations(TorchDispatchMode):
    """Counts operations on tensors but views and memory: on a GPU each is a kernel, or a copy."""

    def __init__(self) -> None:
        super().__init__()
        self.count: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        is_view = any(a.alias_info is not None and not a.alias_info.is_write for a in func._schema.arguments)
        if not is_view and "empty" not in name and name not in ("detach", "_unsafe_view", "scalar_tensor"):
            self.count[name] += 1
        return func(*args, **(kwargs or {}))


class Launches:
    """Kernels of draws and mixing on a device without values: each is a launch."""

    device_type, prefers_one_go = "meta", False

    def __init__(self) -> None:
        self.count = 0

    def start(self, keys: Tensor, ids: Tensor, positions: Tensor, step_index: int) -> Tensor:
        self.count += 1
        return torch.empty(len(keys), 8, len(ids), dtype=torch.int64, device="meta")

    def words(self, stream: Tensor, count: int) -> Tensor:
        self.count += 1
        return torch.empty(stream.shape[1], count, dtype=torch.int64, device="meta")

    def normal(self, stream: Tensor, count: int) -> Tensor:
        self.count += 1
        return torch.empty(stream.shape[1], count, device="meta")

    def mix(self, given: Ingredients, *, keeps_all: bool) -> Mixed:
        self.count += 1
        made = [torch.empty_like(given.moments[:, 0], dtype=torch.float32) for _ in range(5)]
        return Mixed(*made)


IMAGE, CLIP = (2, 4, 1, 32, 32), (2, 4, 8, 32, 32)
COUNTED = {
    "images": (ObjectiveConfig(), IMAGE, False, 0),
    "chain": (ObjectiveConfig(path="ddpm_linear", prediction="noise"), IMAGE, False, 0),
    "given frames": (ObjectiveConfig(), CLIP, True, 0),
    "levels": (ObjectiveConfig(frame_times="independent"), CLIP, True, 1),
    "stratified": (ObjectiveConfig(timesteps=TimestepConfig(stratified=True)), IMAGE, False, 0),
}


@pytest.mark.parametrize(
    ("name", "plain", "by_kernels"),
    [
        ("images", 249, 20),
        ("chain", 266, 38),
        ("given frames", 263, 33),
        ("levels", 338, 41),
        ("stratified", 280, 51),
    ],
)
def test_operations_of_a_micro_batch_are_counted(
    name: str, plain: int, by_kernels: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of 256 samples; in this order 644, 674, 943, 1,373 and 986 before, by the same count.

    Some are made on the host (statistics of latents, the shift of stratified times), and count here too.
    """
    config, shape, frame_condition, unit = COUNTED[name]
    normaliser, place = Normaliser((0.0,) * 4, (1.0,) * 4), torch.arange(256, device="meta")
    known: Any = {"frame_condition": frame_condition, "frames_per_level": unit}
    objective = LatentObjective(config, normaliser, **known)
    moments = torch.empty(256, *shape, dtype=torch.float16, device="meta")
    batch = Batch(moments, place, place, place.float(), Condition(label=place))

    def counted() -> int:
        with Operations() as operations:
            objective.noised(batch, Draws(0, 3, place, place))
        return operations.count.total()

    counted()  # the table of a chain goes to the device once
    found, kernels = counted(), Launches()
    monkeypatch.setattr(drawing, "on_gpu", kernels)
    objective.mix_by(kernels)
    left = counted() + kernels.count
    assert (found, left) == (plain, by_kernels)
    assert kernels.count <= 3  # streams, the mixture, and times of many frames


@pytest.mark.parametrize("kernels", ["draws", "triton"])
def test_a_run_takes_them_and_computes_what_it_computes_without(
    kernels: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With kernels that stand-ins on the CPU take the place of; the run records that it has them."""
    make_autoencoder(tmp_path / "autoencoder")
    cache = make_latents(tmp_path / "latents", tmp_path / "autoencoder")
    made: list[torch.dtype] = []

    def put(kind: str, network: Any, device: torch.device) -> None:
        assert kind == kernels
        ours = TensorDraws()
        ours.device_type = "cpu"
        monkeypatch.setattr(drawing, "on_gpu", ours)

    def mixer(dtype: torch.dtype) -> TensorMixer:
        made.append(dtype)
        return TensorMixer()

    monkeypatch.setattr("tools.train.network.use_kernels", put)
    monkeypatch.setattr("tools.train.claimed_run.mixer", mixer)
    losses = []
    for name in ("torch", kernels):
        fields = (f"source={cache}", f"output={tmp_path / name}", "trainer.steps=3", f"engine.kernels={name}")
        run(load(Config, overrides=[*MODEL, *STEP, "model.frame_condition=true", *fields]))
        losses.append([row["loss"] for row in rows(tmp_path / name)])
        choices = json.loads((tmp_path / name / "choices.json").read_text())
        assert choices["kernels"] == {"value": name, "ranks": 1}
    assert made == [torch.bfloat16]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
