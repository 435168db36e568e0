"""The batches of a sampling job: from what they are made, and how."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from core.batch import Condition
from core.diffusion.paths.kinds import make_path
from core.diffusion.sampling import sample
from core.draws import Draws
from core.errors import UserError, below
from core.faults.failpoints import failpoint
from core.progress import say
from data.media.images import from_tensor
from tools.runs.trained import Trained, open_run
from tools.sample import parts as sample_parts
from tools.sample import sampled_from
from tools.sample.conditions import conditions_of, require_trained, turns_of, untrained_shift
from tools.sample.parts import Parts
from tools.sample.prompts import Prompts, embed

if TYPE_CHECKING:
    from tools.sample.config import Config


def prepare(
    config: Config, texts: tuple[str, ...], device: torch.device, record: dict[str, Any] | None
) -> Job:
    """Read what samples are made from; UserError, with nothing written, where it is not as asked for, or not
    what the job was begun with.

    record: what that is, None for a job that begins.
    """
    torch.backends.cudnn.benchmark = False  # workers that make the same samples make the same bytes
    torch.backends.cudnn.deterministic = True
    checkpoint = sampled_from.checkpoint_of(config, record)
    trained = open_run(Path(config.source), checkpoint, config.weights, device)
    with below("tiling"):
        trained.autoencoder.set_tiling(config.tiling)
    folder = config.text_encoder or trained.space.text_folder
    job = Job(config, trained, embed(texts, trained.space.text, folder, device))
    sampled_from.require_same(Path(config.output), record or job.made_from, job.made_from)
    with below("sampler"):
        warnings = require_trained(trained.space, config.sampler, conditions_of(job.turns, job.texts))
    for warning in (*warnings, *untrained_shift(Path(config.source), config.sampler)):
        say(f"warning: {warning}")
    return job


@dataclass(frozen=True)
class Job:
    """What all batches of one sampling job have in common."""

    config: Config
    trained: Trained
    prompts: Prompts | None = None

    @cached_property
    def made_from(self) -> dict[str, Any]:
        """What the samples depend on, as this worker finds it."""
        return sampled_from.describe(self.config, self.trained, self.prompts, self.turns, self.latent_shape)

    @property
    def turns(self) -> list[int]:
        """Labels of the classes that take turns; [-1] where there are none, or only prompts are given."""
        return turns_of(self.config.classes, self.texts, self.trained.space)

    @property
    def texts(self) -> tuple[str, ...]:
        """The prompts that take turns."""
        return self.prompts.texts if self.prompts is not None else ()

    @property
    def labels(self) -> NDArray[np.int64]:
        """The class of every sample, (count,), -1 for none."""
        return np.resize(np.array(self.turns, np.int64), self.config.count)

    @property
    def latent_shape(self) -> tuple[int, int, int, int]:
        """(C, T, H, W) of a sample: the most frequent one with so many frames, unless a size is given."""
        config, shapes = self.config, self.trained.space.shapes
        autoencoder = self.trained.autoencoder
        factor = autoencoder.spatial_compression
        frames, _, _ = autoencoder.latent_shape((config.frames, factor, factor))
        known = [(h * factor, w * factor) for _, t, h, w in shapes if t == frames]
        if not known and not (config.height and config.width):
            raise UserError(
                "frames", config.frames, f"one of the run's latents {shapes}, or height and width"
            )
        height = config.height or known[0][0]
        width = config.width or known[0][1]
        return (shapes[0][0], *autoencoder.latent_shape((config.frames, height, width)))

    def parts(self, made_from: str) -> Parts:
        """Return the store of finished batches. made_from: hash of the record that this job keeps to."""
        _, *latent = self.latent_shape
        factor = self.trained.autoencoder.spatial_compression
        frames = (self.config.frames,) if self.config.frames > 1 else ()
        shape = (*frames, latent[1] * factor, latent[2] * factor, 3)
        return Parts(Path(self.config.output) / sample_parts.FOLDER, made_from, self.config.count, shape)

    def generate(self, rows: range) -> NDArray[np.uint8]:
        """Return the pixels of samples `rows`, (n, [T,] H, W, 3), so many at once as `batch` says."""
        labels, size = self.labels, self.config.batch
        made = []
        for start in range(rows.start, rows.stop, size):
            numbers = np.arange(start, min(start + size, rows.stop))
            made.append(
                generate(self.trained, self.latent_shape, numbers, labels[numbers], self.config, self.prompts)
            )
            failpoint("sample.batch")
        return np.concatenate(made)


def generate(
    trained: Trained,
    shape: tuple[int, int, int, int],
    numbers: NDArray[np.int64],
    labels: NDArray[np.int64],
    config: Config,
    prompts: Prompts | None = None,
) -> NDArray[np.uint8]:
    """Return samples `numbers` of classes `labels`, both (B,): images (B, H, W, 3), clips (B, T, H, W, 3)."""
    device = next(trained.model.parameters()).device
    rows = torch.from_numpy(numbers).to(device)
    label = torch.from_numpy(labels).to(device) if trained.space.classes else None
    text, length = prompts.of(numbers) if prompts is not None else (None, None)
    condition = Condition(label=label, text=text, text_length=length)
    with below("sampler"):
        latents = sample(
            trained.model,
            (len(rows), *shape),
            condition,
            config.sampler,
            make_path(trained.space.path),
            trained.space.prediction,
            Draws(config.seed, 0, rows, torch.zeros_like(rows)),
            learned_sigma=trained.space.learned_sigma,
        )
    with torch.no_grad():
        pixels = from_tensor(trained.autoencoder.decode(trained.space.normaliser.undo(latents)))
    return pixels[:, 0] if config.frames == 1 else pixels
