"""Draw the trajectory of samples from noise to data: the solver's states and the network's estimates."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from core.diffusion.solvers.levels import Estimate, Level
from data.media.labels.lettering import writable
from data.media.pictures import caption, enlarge, enlargement, page, write_png
from tools.sample.generating import Maker, decode, make_latents
from tools.sample.networks.compiling import uncompiled

if TYPE_CHECKING:
    from tools.sample.batches import Job

SAMPLES, COLUMNS = 4, 12  # that are drawn
FILE = "trajectory.png"
LETTERS = 24  # of a name, beside its row
CLIP = 2  # frames: more than one, so that pixels keep the axis of time


def draw_trajectory(job: Job) -> None:
    """Make the first samples of the first form again, and publish the states on their way with noise levels.

    For each sample a row of states and below it one of estimated data; of clips the middle frame. The level
    under a picture is the share of noise, sigma / (alpha + sigma).
    """
    form = int(job.schedule.form[0])
    samples = np.flatnonzero(job.schedule.form == form)[:SAMPLES]
    seen: list[tuple[float, Tensor, Tensor]] = []

    def observe(x: Tensor, level: Level, estimate: Estimate) -> None:
        share = level.straight if isinstance(level.alpha, float) else level.t  # frames at levels of their own
        seen.append((share, (x / (level.alpha + level.sigma)).cpu(), estimate.data.cpu()))

    networks, beside = (job.prompts, job.guiding), job.beside_of(form, observe)
    with uncompiled() if job.is_compiled else contextlib.nullcontext():
        last = make_latents(Maker.of(job.trained), job.shapes[form], samples, job.schedule, *networks, beside)
    seen.append((0.0, last.cpu(), last.cpu()))
    rows: list[list[NDArray[np.uint8]]] = [[] for _ in range(2 * len(samples))]
    for number in np.linspace(0, len(seen) - 1, min(COLUMNS, len(seen))).round().astype(int):
        share, *both = seen[number]
        for kind, latents in enumerate(both):
            there = latents.to(last.device)
            clips = decode(job.trained.autoencoder, job.trained.space.normaliser, there, CLIP)
            for sample, clip in enumerate(clips):
                rows[2 * sample + kind].append(_labelled(clip[len(clip) // 2], f"{share:.2f}"))
    said = [(sample, f"{job.fields(int(sample))['name']}"[:LETTERS]) for sample in samples]
    names = [name if writable(name) else f"sample {sample}" for sample, name in said]
    write_png(
        Path(job.making.output) / FILE,
        page(rows, [text for name in names for text in (name or "state", "estimate")]),
    )


def _labelled(picture: NDArray[np.uint8], text: str) -> NDArray[np.uint8]:
    shown = enlarge(picture, enlargement(picture.shape[0], 64))
    return np.concatenate([shown, caption(text, shown.shape[1])])
