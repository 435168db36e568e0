"""The batches of a sampling job: from what they are made, which of them a rank makes, and how."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from core.batch import Condition
from core.diffusion.paths import make_path
from core.diffusion.sampling import sample
from core.distributed.ranks import World
from core.draws import Draws
from core.errors import UserError
from core.files import atomic_file
from core.progress import Progress
from data.media.images import from_tensor
from tools.runs.trained import Trained, open_run
from tools.sample.prompts import Prompts, embed

if TYPE_CHECKING:
    from tools.sample.config import Config


def prepare(config: Config, texts: tuple[str, ...], world: World) -> Job:
    """Read what samples are made from; UserError, with nothing written, where it is not as asked for."""
    trained = open_run(Path(config.source), config.checkpoint, config.weights, world.device)
    trained.autoencoder.set_tiling(config.tiling)
    folder = config.text_encoder or trained.space.text_folder
    job = Job(config, trained, world, embed(texts, trained.space.text, folder, world.device))
    _ = job.labels, job.latent_shape
    return job


@dataclass(frozen=True)
class Job:
    """The batches of one sampling job, and which of them this rank generates."""

    config: Config
    trained: Trained
    world: World
    prompts: Prompts | None = None

    @property
    def labels(self) -> NDArray[np.int64]:
        """(count,): the class of every sample; -1 where the run knows none, or prompts are given instead."""
        if self.prompts is not None and not self.config.classes:
            return np.full(self.config.count, -1, np.int64)
        chosen = chosen_classes(self.config.classes, self.trained.space.classes)
        return np.resize(np.array(chosen, np.int64), self.config.count)

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

    def part(self, number: int) -> Path:
        """Where batch `number` is kept."""
        return Path(self.config.output) / "parts" / f"part-{number:06d}.npz"

    def parts(self) -> Iterator[tuple[int, range]]:
        """Yield every batch: its number and its samples' numbers."""
        for number, start in enumerate(range(0, self.config.count, self.config.batch)):
            yield number, range(start, min(start + self.config.batch, self.config.count))

    def generate(self) -> None:
        """Generate this rank's missing batches."""
        labels, shape = self.labels, self.latent_shape
        mine = [(n, rows) for n, rows in self.parts() if n % self.world.size == self.world.rank]
        mine = [(n, rows) for n, rows in mine if not self.part(n).exists()]
        done = self._done()
        with Progress(self.config.count, "sample", done=done) as progress:
            for number, rows in mine:
                pixels = generate(
                    self.trained,
                    shape,
                    np.array(rows),
                    labels[rows.start : rows.stop],
                    self.config,
                    self.prompts,
                )
                with atomic_file(self.part(number)) as file:
                    np.savez(file, arr_0=pixels)
                done, before = self._done(), done  # those of other ranks too
                progress.advance(done - before)

    def _done(self) -> int:
        """Samples of the batches that are there, whoever made them."""
        return sum(len(rows) for number, rows in self.parts() if self.part(number).exists())


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


def chosen_classes(wanted: tuple[str, ...], names: tuple[str, ...]) -> list[int]:
    """Return labels of the classes asked for by name or number; [] asks for all, and [-1] is no class."""
    if not wanted:
        return list(range(len(names))) or [-1]
    labels = {str(number): number for number in range(len(names))}
    labels |= {name: number for number, name in enumerate(names)}
    for name in wanted:
        if name not in labels:
            some = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
            raise UserError(
                "classes", name, f"classes of the run: {some}" if names else "none: it has no classes"
            )
    return [labels[name] for name in wanted]
