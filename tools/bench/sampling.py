"""Measure sampling: what solver and guidance cost beside the bare forward passes, and files a second.

Latents to latents: `sample` against the same network called as often on the same inputs, and diffusers'
`DiTPipeline` with a network of the same shape, whose decoder is left out.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from core.batch import Condition
from core.diffusion.conditioning import stacked
from core.diffusion.generating import sample
from core.diffusion.guidance.branches import by_condition
from core.diffusion.paths.config import ScheduleConfig, path_record
from core.diffusion.paths.kinds import make_path
from core.diffusion.paths.path import PathName
from core.diffusion.sampling import SamplerConfig
from core.diffusion.solvers.kinds import SolverName
from core.draws import Draws
from models.denoisers.dit import DiT, DiTConfig
from tools.bench import public_dits
from tools.bench.job import Config
from tools.bench.rounds import Floor, Row, Way, measure
from tools.sample.files.kinds import KINDS

STEPS, SIDE = 5, 32  # of latents of pictures of 256 pixels
PATH: PathName = "ddpm_linear"
CASES: tuple[tuple[SolverName, float], ...] = (("ddim", 1.0), ("ddim", 4.0), ("heun", 1.0), ("unipc_3", 4.0))
MOST = {"cpu": 1.03, "cuda": 1.02}  # times the bare forward passes
PICTURES, FILM = 8, (16, 256, 256, 3)


def rows(config: Config, folder: Path) -> list[Row]:
    """Measure a case for each solver and guidance, and one for each kind of file."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    preset = config.network or ("DiT-XL/2" if device.type == "cuda" else "DiT-S/2")
    torch.manual_seed(0)
    network = replace(DiTConfig.presets[preset], preset=preset)
    model = network.build().to(device).eval()
    for parameter in model.parameters():  # zeros, as in a new network, say nothing when compared
        torch.nn.init.normal_(parameter, std=0.02)
    batch = config.batch or (64 if device.type == "cuda" else 2)
    found = [_case(config, model, *case, batch) for case in CASES]
    return [*found, *_files(config)]


def _case(config: Config, model: DiT, solver: SolverName, guidance: float, batch: int) -> Row:
    """Measure sampling by a solver beside the forward passes alone, and beside diffusers where it has it."""
    network, device = model.config, next(model.parameters()).device
    path = make_path(path_record(PATH, ScheduleConfig()))
    shape = (batch, network.input_channels, 1, SIDE, SIDE)
    settings = SamplerConfig(solver=solver, steps=STEPS, guidance=guidance)
    condition = Condition(label=torch.zeros(batch, dtype=torch.int64, device=device))
    numbers = torch.arange(batch, device=device)
    calls: list[Tensor] = []

    def counted(x: Tensor, time: Tensor, given: Condition) -> Tensor:
        calls.append(x)
        return model(x, time, given)

    def drawn(network: Callable[..., Tensor]) -> Tensor:
        draws = Draws(0, 0, numbers, torch.zeros_like(numbers))
        return _done(sample(network, shape, condition, settings, path, "noise", draws))

    expected = drawn(counted)
    bare = _bare_forwards(model, calls, condition, guidance)
    ways = [
        Way("longtake", batch, lambda: iter([drawn(model)]), lambda made: bool(torch.equal(made, expected))),
        Way("bare forwards", batch, bare, lambda made: bool(made.isfinite().all())),
    ]
    absent: tuple[str, ...] = ()
    if importlib.util.find_spec("diffusers") is None:
        absent = ("diffusers DiTPipeline",)
    elif solver == "ddim":
        ways.append(_peer(network, guidance, batch, device))
    protocol = (
        f"{batch} latents of {shape[1:]} by {STEPS} steps of {solver}, {len(calls)} evaluations of "
        f"{len(calls[0])}, {device.type}, fp32"
    )
    row = Row(f"{solver}, guidance {guidance:g}", "samples", protocol, measure(ways, config.rounds), absent)
    times = row.timings["bare forwards"].best / row.timings["longtake"].best
    row.floors.append(Floor("times the bare forwards", times, MOST[device.type], at_most=True))
    return row


def _bare_forwards(
    model: DiT, calls: list[Tensor], condition: Condition, guidance: float
) -> Callable[[], Iterator[Tensor]]:
    """Return what evaluates the network as often as a sampler did in `calls`, on inputs of the same shape."""
    evaluations, width = len(calls), len(calls[0])
    conditions = [branch.condition for branch in by_condition(model, condition, guidance).outputs]
    x, time, both = torch.cat(calls)[:width], torch.zeros(width, device=calls[0].device), stacked(conditions)

    @torch.no_grad()
    def bare() -> Iterator[Tensor]:
        for _ in range(evaluations):
            out = model(x, time, both)
        yield _done(out)

    return bare


def _done(made: Tensor) -> Tensor:
    """Wait for the device."""
    if made.is_cuda:
        torch.cuda.synchronize()
    return made


def _peer(network: DiTConfig, guidance: float, batch: int, device: torch.device) -> Way:
    """Return diffusers' pipeline around a network of this shape, with a decoder that takes no time."""
    from diffusers import AutoencoderKL, DDIMScheduler, DiTPipeline

    found, _ = public_dits.find(network, (batch, network.input_channels, 1, SIDE, SIDE), "")
    model = found[public_dits.DIFFUSERS].to(device)
    decoder: Any = AutoencoderKL(latent_channels=network.input_channels)
    decoder.decode = lambda latents: SimpleNamespace(sample=latents)
    pipeline: Any = DiTPipeline(model, decoder.to(device), DDIMScheduler(clip_sample=False))
    pipeline.set_progress_bar_config(disable=True)

    def made() -> Iterator[Any]:
        yield pipeline([0] * batch, guidance, num_inference_steps=STEPS, output_type="np").images

    return Way("diffusers DiTPipeline", batch, made, lambda images: len(images) == batch)


def _files(config: Config) -> list[Row]:
    """Measure how many files of a kind are encoded a second: pictures of 256 pixels, films of 16 such frames.

    What is drawn is smooth, with a little noise, as pictures are; noise alone compresses unlike any.
    """
    ramp = (
        np.linspace(0, 200, FILM[1])[None, :, None, None] + np.linspace(0, 40, FILM[2])[None, None, :, None]
    )
    noise = np.random.default_rng(0).integers(0, 12, FILM)
    film = (ramp + noise).clip(0, 255).astype(np.uint8)
    found = []
    for name, kind in KINDS.items():
        pixels, many = (film[0], PICTURES) if kind.holds == "image" else (film, 1)

        def encoded(kind: Any = kind, pixels: Any = pixels, many: int = many) -> Iterator[bytes]:
            for _ in range(many):
                yield kind.encode(pixels, 12.0, None)

        way = Way("longtake", many, encoded, lambda data: len(data) > 0)
        protocol = f"{'x'.join(map(str, pixels.shape))} uint8 with the usual quality, in memory"
        found.append(Row(f"file: {name}", "files", protocol, measure([way], config.rounds)))
    return found
