"""The batches of a sampling job: what they are made from, which of them a rank makes, and how."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from core.batch import Condition
from core.diffusion.paths import make_path
from core.diffusion.sampling import sample
from core.distributed import ranks
from core.distributed.ranks import World
from core.draws import Draws
from core.errors import UserError, below
from core.progress import Progress, say
from data.media.images import from_tensor
from tools.runs.trained import Trained, open_run
from tools.sample import parts as sample_parts
from tools.sample import sampled_from
from tools.sample.conditions import conditions_of, require_trained, turns_of
from tools.sample.parts import DamagedPart, Parts
from tools.sample.prompts import Prompts, embed

if TYPE_CHECKING:
    from tools.sample.config import Config


def prepare(config: Config, texts: tuple[str, ...], world: World, record: dict[str, Any] | None) -> Job:
    """Read what samples are made from (collective); UserError, with nothing written, where it is not as
    asked for, or not what the job was begun with.

    record: what that is, None for a job that begins.
    """
    # One rank chooses: while the run goes on, the newest checkpoint of two ranks may be two.
    checkpoint = ranks.on_first_rank(lambda: sampled_from.checkpoint_of(config, record))
    trained = open_run(Path(config.source), checkpoint, config.weights, world.device)
    with below("tiling"):
        trained.autoencoder.set_tiling(config.tiling)
    folder = config.text_encoder or trained.space.text_folder
    job = Job(config, trained, world, embed(texts, trained.space.text, folder, world.device))
    _require_same_everywhere(job, record or ranks.broadcast_object(job.made_from))
    with below("sampler"):
        warnings = require_trained(trained.space, config.sampler, conditions_of(job.turns, job.texts))
    for warning in warnings:
        say(f"warning: {warning}")
    return job


def _require_same_everywhere(job: Job, record: dict[str, Any]) -> None:
    """Raise UserError on all ranks if one of them would sample from something else (collective)."""
    problem = ""
    try:
        sampled_from.require_same(Path(job.config.output), record, job.made_from)
    except UserError as error:
        problem = str(error)
    if problems := [problem for problem in ranks.gather_objects(problem) if problem]:
        raise UserError(problems[0])


@dataclass(frozen=True)
class Job:
    """The batches of one sampling job, and which of them this rank generates."""

    config: Config
    trained: Trained
    world: World
    prompts: Prompts | None = None

    @cached_property
    def made_from(self) -> dict[str, Any]:
        """The record of what the samples depend on, as this rank finds it."""
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

    def generate(self, parts: Parts) -> None:
        """Generate this rank's share of the missing samples (collective: all ranks)."""
        labels, shape = self.labels, self.latent_shape
        gaps = sample_parts.missing(self._usable(parts), parts.count)
        batches = [rows for gap in gaps for rows in _cut(gap, self.config.batch)]
        there = parts.count - sum(map(len, batches))

        def done() -> int:
            return there + sum(len(rows) for rows in batches if parts.path(rows).exists())

        before = there
        with Progress(parts.count, "sample", done=there) as progress:
            for rows in batches[self.world.rank :: self.world.size]:
                numbers, wanted = np.array(rows), labels[rows.start : rows.stop]
                pixels = generate(self.trained, shape, numbers, wanted, self.config, self.prompts)
                parts.write(rows, pixels)
                now = done()  # those of other ranks too
                progress.advance(now - before)
                before = now

    def _usable(self, parts: Parts) -> list[range]:
        """Return the ranges that exist and are whole.

        Others are removed and reported (collective: all ranks).
        """
        listed, foreign = ranks.on_first_rank(parts.listed)
        found: dict[range, str] = {}
        for rows in listed[self.world.rank :: self.world.size]:  # to read them all may take minutes
            try:
                parts.read(rows)
                found[rows] = ""
            except DamagedPart as problem:
                found[rows] = str(problem)
        every = {rows: problem for share in ranks.gather_objects(found) for rows, problem in share.items()}
        unusable = {parts.path(rows): problem for rows, problem in every.items() if problem}
        unusable |= dict.fromkeys(foreign, "its name is not one of a part of this job")

        def remove() -> None:
            for path, problem in unusable.items():
                say(f"{path} is not used: {problem}; its samples are made anew")
                path.unlink(missing_ok=True)

        ranks.on_first_rank(remove)  # before any rank writes
        return sample_parts.apart(rows for rows in listed if not every[rows])


def _cut(rows: range, size: int) -> list[range]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


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
