"""Make the latents of a batch of samples, and their pixels."""

from __future__ import annotations

from dataclasses import dataclass
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
from core.draws import Draws
from core.errors import below
from data.latent.normalising import Normaliser
from data.media.images import from_tensor
from models.autoencoder.interface import AnyAutoencoder
from models.denoisers.network import DenoiserConfig
from tools.runs.loaded_run import LatentSpace, LoadedRun
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


def make_latents(
    maker: Maker,
    shape: tuple[int, int, int, int],
    samples: NDArray[np.int64],
    schedule: Schedule,
    prompts: Prompts | None = None,
    guiding: Guiding | None = None,
) -> Tensor:
    """Return normalised latents (B, C, T, H, W) of samples (B,) of one form, by number.  shape: (C, T, H, W).

    guiding: what guides them beside their conditions.
    """
    sampler = schedule.forms[schedule.form[samples[0]]].sampler
    rows = torch.from_numpy(schedule.number[samples]).to(maker.device)
    label = torch.from_numpy(schedule.label[samples]).to(maker.device) if maker.space.classes else None
    text, length = prompts.of(schedule.text[samples]) if prompts is not None else (None, None)
    condition = Condition(label=label, text=text, text_length=length)
    seeds = tuple(schedule.seed[sample] for sample in samples)
    seed = seeds[0] if len(set(seeds)) == 1 else seeds
    guides = guiding.of(samples, schedule, prompts, sampler.guide) if guiding is not None else Guides()
    with below("sampler"):
        return sample(
            maker.model,
            (len(rows), *shape),
            condition,
            sampler,
            make_path(maker.space.path),
            maker.space.prediction,
            Draws(seed, 0, rows, torch.zeros_like(rows)),
            learned_sigma=maker.space.learned_sigma,
            guides=guides,
            frames_per_level=maker.network.frames_per_level,
        )


@torch.no_grad()
def decode(
    autoencoder: AnyAutoencoder, normaliser: Normaliser, latents: Tensor, frames: int
) -> NDArray[np.uint8]:
    """Return the pixels of latents: images (B, H, W, 3), clips of more than one frame (B, T, H, W, 3)."""
    pixels = from_tensor(autoencoder.decode(normaliser.undo(latents)))
    return pixels[:, 0] if frames == 1 else pixels
