"""Objectives whose noisy batches are made in one pass over the moments, and by the plain operations."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from core import draws as drawing
from core.batch import Batch, Condition
from core.diffusion.frames.training_levels import GivenConfig
from core.diffusion.objectives.config import ObjectiveConfig
from core.diffusion.objectives.mixer import Mixer
from core.diffusion.objectives.noised import NoisyBatch
from core.diffusion.paths.config import ScheduleConfig
from core.draws import Draws
from core.philox import OnDevice
from data.latent.normalising import Normaliser
from tools.train.objective import LatentObjective

CPU = torch.device("cpu")
ANY = GivenConfig(first=1, last=1, ends=1, every=1, random=1, n=2)
USUAL = Normaliser((0.1, -0.2, 0.3), (1.0, 2.0, 0.5))
OF_FRAMES = Normaliser(
    ((0.1,) * 4, (0.2, 0.3, 0.4, 0.5), (0.0,) * 4), ((1.0,) * 4, (2.0,) * 4, (0.5, 1.0, 2.0, 3.0))
)


@dataclass(frozen=True)
class Case:
    """An objective on moments (B, M, C, T, H, W) of a shape (M, C, T, H, W)."""

    objective: ObjectiveConfig
    shape: tuple[int, int, int, int, int] = (2, 3, 1, 3, 5)
    frame_condition: bool = False
    unit: int = 0
    normaliser: Normaliser = USUAL
    has_stills: bool = False


def _frames(**given: Any) -> ObjectiveConfig:
    return ObjectiveConfig(given_frames=given.pop("given_frames", 0.7), **given)


CLIP = (2, 3, 4, 3, 5)
CASES = {
    "flow": Case(ObjectiveConfig(class_dropout=0.3, text_dropout=0.2)),
    "means": Case(ObjectiveConfig(prediction="v"), (1, 3, 2, 3, 5)),
    "chain": Case(ObjectiveConfig(path="ddpm_linear", prediction="noise", weighting="min_snr")),
    "variance": Case(ObjectiveConfig(path="ddpm_cosine", prediction="noise", learned_sigma=True)),
    "mean of a step": Case(ObjectiveConfig(path="ddpm_linear", prediction="posterior_mean")),
    "scaled input": Case(ObjectiveConfig(path="edm", prediction="edm", weighting="edm")),
    "score": Case(ObjectiveConfig(path="ddpm_linear", prediction="score", loss_space="noise")),
    "no signal": Case(
        ObjectiveConfig(path="ddpm_linear", prediction="v", schedule=ScheduleConfig(zero_terminal_snr=True))
    ),
    "mean flow": Case(ObjectiveConfig(kind="mean_flow")),
    "consistency": Case(ObjectiveConfig(kind="consistency", path="edm", prediction="edm")),
    "given frames": Case(_frames(), CLIP, frame_condition=True, normaliser=OF_FRAMES),
    "stills": Case(_frames(given=ANY), CLIP, frame_condition=True, has_stills=True),
    "levels": Case(_frames(frame_times="independent", prediction="data"), CLIP, unit=1),
    "levels of pairs": Case(
        _frames(frame_times="monotone", given=ANY, path="ddpm_linear", prediction="v", weighting="p2"),
        CLIP,
        frame_condition=True,
        unit=2,
        has_stills=True,
    ),
    "clean starts": Case(_frames(frame_times="prefix", given_frames=0.0), CLIP, unit=1),
}


def noisy(case: Case, draws: OnDevice | None, mixer: Mixer | None, device: torch.device = CPU) -> NoisyBatch:
    """Return the noisy batch of a case, made by plain operations, or with other draws and by a mixer."""
    generator = torch.Generator().manual_seed(0)
    count = 6
    x = torch.randn(count, *case.shape, generator=generator).half()
    stills = torch.randn(count, 1, case.shape[1], 1, *case.shape[3:], generator=generator).half()
    place = torch.arange(count)
    batch = Batch(x, place * 2**38 + 5, place, torch.ones(count), Condition(label=place)).to(device)
    known: Any = {"frame_condition": case.frame_condition, "frames_per_level": case.unit}
    known["stills"] = (lambda batch: stills.to(device, non_blocking=True)) if case.has_stills else None
    objective = LatentObjective(case.objective, case.normaliser, **known)
    if mixer is not None:
        objective.mix_by(mixer)
    before, drawing.on_gpu = drawing.on_gpu, draws
    try:
        return objective.noised(batch, Draws(3, 2, batch.id, batch.position))
    finally:
        drawing.on_gpu = before


def apart(found: NoisyBatch, plain: NoisyBatch) -> dict[str, float]:
    """Return by name of a tensor how far it is from the plain one: the largest error, of the largest value.

    Data and noise that were not kept are left out; infinite where only one has the tensor.
    """
    errors = {}
    both = [(each.name, getattr(found, each.name), getattr(plain, each.name)) for each in fields(plain)]
    both += [
        (each.name, getattr(found.condition, each.name), getattr(plain.condition, each.name))
        for each in fields(plain.condition)
    ]
    for name, ours, theirs in both:
        if isinstance(theirs, Tensor) and ours is not None:
            errors[name] = _apart(ours, theirs)
        elif (ours is None) != (theirs is None) and name not in ("clean", "noise"):
            errors[name] = float("inf")
    return errors


def _apart(found: Tensor, exact: Tensor) -> float:
    found, exact = found.cpu().double(), exact.double()
    return float((found - exact).abs().max() / exact.abs().max().clamp(min=1e-30))
