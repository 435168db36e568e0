"""Make the latents of a batch of samples, and their pixels."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.batch import Condition
from core.diffusion.generating import sample
from core.diffusion.guidance.guides import Guides
from core.diffusion.objectives.noised import Model
from core.diffusion.paths.kinds import make_path
from core.diffusion.tasks.between import between
from core.diffusion.tasks.task import Observe, Task
from core.diffusion.tasks.windows import Windows
from core.draws import Draws
from core.errors import below
from data.latent.normalising import Normaliser
from data.media.images import from_tensor
from models.autoencoder.interface import AnyAutoencoder
from models.denoisers.network import DenoiserConfig
from tools.runs.loaded_run import LatentSpace, LoadedRun
from tools.sample.given.config import TaskConfig
from tools.sample.given.known import Known
from tools.sample.guiding import Guiding
from tools.sample.prompts import Prompts
from tools.sample.requests.schedule import Schedule


@dataclass(frozen=True)
class Maker:
    """A network, and what must be known of it to sample.  device: where it lies."""

    model: Model
    network: DenoiserConfig
    space: LatentSpace
    device: torch.device

    @classmethod
    def of(cls, trained: LoadedRun) -> Self:
        """Return the maker of a run that is open."""
        device = next(trained.model.parameters()).device
        return cls(trained.model, trained.network, trained.space, device)


@dataclass(frozen=True)
class Beside:
    """The inputs of a form's samples beside noise and conditions.

    observe: is shown every evaluation.
    """

    known: Known | None = None
    windows: Windows | None = None
    observe: Observe | None = None


NOTHING_BESIDE = Beside()


def make_latents(
    maker: Maker,
    shape: tuple[int, int, int, int],
    samples: NDArray[np.int64],
    schedule: Schedule,
    prompts: Prompts | None = None,
    guiding: Guiding | None = None,
    asked: Beside = NOTHING_BESIDE,
) -> Tensor:
    """Return normalised latents (B, C, T, H, W) of samples (B,) of one form, by number.  shape: (C, T, H, W).

    guiding: what guides them beside their conditions.  asked: what they are made from beside noise.
    """
    form = schedule.forms[schedule.form[samples[0]]]
    sampler, known = form.sampler, asked.known
    rows = torch.from_numpy(schedule.number[samples]).to(maker.device)
    label = torch.from_numpy(schedule.label[samples]).to(maker.device) if maker.space.classes else None
    text, length = prompts.of(schedule.text[samples]) if prompts is not None else (None, None)
    condition = Condition(label=label, text=text, text_length=length)
    if known is not None and known.frames is not None:
        mask, latents = (part.expand(len(rows), *part.shape) for part in (known.frames, known.latents))
        condition = replace(condition, frame_mask=mask, frame_latents=latents)
    seeds = tuple(schedule.seed[sample] for sample in samples)
    seed = seeds[0] if len(set(seeds)) == 1 else seeds
    draws = Draws(seed, 0, rows, torch.zeros_like(rows))
    guides = guiding.of(samples, schedule, prompts, sampler.guide) if guiding is not None else Guides()
    with below("sampler"):
        return sample(
            maker.model,
            (len(rows), *shape),
            condition,
            sampler,
            make_path(maker.space.path),
            maker.space.prediction,
            draws,
            learned_sigma=maker.space.learned_sigma,
            guides=guides,
            frames_per_level=maker.network.frames_per_level,
            task=_task(asked, form.task, draws, shape, torch.from_numpy(schedule.toward[samples])),
        )


def _task(asked: Beside, said: TaskConfig, draws: Draws, shape: tuple[int, ...], toward: Tensor) -> Task:
    """Return what is asked of a batch.  toward: place of each sample between its noise and `to_number`'s."""
    known, many, noise = asked.known, len(draws.id), None
    if said.to_number is not None:
        last = replace(draws, id=torch.full_like(draws.id, said.to_number))
        first, end = (each.normal("sample_start", shape) for each in (draws, last))
        noise = between(first, end, toward.to(draws.id.device), said.interpolation)
    latents = kept = None
    if known is not None:
        latents = known.latents.expand(many, *shape)
        kept = None if known.kept is None else known.kept.expand(many, *known.kept.shape)
    return Task(noise, latents, kept, said.start_time, asked.windows, asked.observe, said.keep)


@torch.no_grad()
def decode(
    autoencoder: AnyAutoencoder, normaliser: Normaliser, latents: Tensor, frames: int
) -> NDArray[np.uint8]:
    """Return the pixels of latents: images (B, H, W, 3), clips of more than one frame (B, T, H, W, 3)."""
    pixels = from_tensor(autoencoder.decode(normaliser.undo(latents)))
    return pixels[:, 0] if frames == 1 else pixels
