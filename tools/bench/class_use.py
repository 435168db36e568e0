"""Measure at which noise trained runs make use of the class: the error of the data with it and with another.

    python -m tools.bench.class_use runs/demo/latents runs/digits/*/run

prints a table: of images of the cache, the mean squared error of the data that a network estimates at levels
of log(sigma / alpha), told the sample's class and told another one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.batch import Condition
from core.diffusion.paths.kinds import make_path
from core.diffusion.predictions import network_input, to_data
from core.terminal import deliver
from data.dataset.index import Dataset
from data.latent.reading import reader_of
from tools.runs.loaded_run import LoadedRun, open_run

LEVELS = (0.0, 1.0, 2.0)  # of log(sigma / alpha)
COUNT = 250  # images
Errors = list[tuple[float, float]]
"""Of each of LEVELS, the mean squared error of the estimated data with the class, and with another."""


def images_of(cache: Dataset, count: int = COUNT) -> tuple[Tensor, Tensor]:
    """Return the means of the latents of the first images, (count, C, 1, H, W), and their classes."""
    reader, index = reader_of(cache), cache.index
    (bucket,) = (number for number, shape in enumerate(reader.shapes) if shape[2] == 1)
    rows = np.flatnonzero((index["bucket"] == bucket) & (index["size"] > 0))[:count]
    return reader.gather(rows)[:, 0].float(), torch.from_numpy(index["label"][rows].astype(np.int64))


@torch.no_grad()
def errors(trained: LoadedRun, latents: Tensor, labels: Tensor) -> Errors:
    """Return the mean squared error of the data at each of LEVELS, with the class and with another."""
    space = trained.space
    path, x0 = make_path(space.path), space.normaliser.apply(latents)
    noise = torch.randn(x0.shape, generator=torch.Generator().manual_seed(0))
    others = (labels + 1 + torch.arange(len(labels)) % (len(space.classes) - 1)) % len(space.classes)
    found = []
    for level in LEVELS:
        t = path.time_of(torch.tensor([level], dtype=torch.float64))
        alpha, sigma = map(float, path.levels(t))
        x = alpha * x0 + sigma * noise
        time, seen = path.time_input(t).float().expand(len(x)), network_input(path, x, alpha, sigma)
        pair = []
        for told in (labels, others):
            output = trained.model(seen, time, Condition(label=told))[:, : x.shape[1]]
            data = to_data(space.prediction, output, x, alpha, sigma)
            pair.append(float((data - x0).square().mean()))
        found.append((pair[0], pair[1]))
    return found


def errors_of(cache: Path, runs: Sequence[Path]) -> list[Errors]:
    """Return the errors of runs on images of a cache."""
    latents, labels = images_of(Dataset(cache, "cache"))
    opened = (open_run(run, "", "ema", torch.device("cpu")) for run in runs)
    return [errors(trained, latents, labels) for trained in opened]


def as_table(names: Sequence[str], rows: Sequence[Errors]) -> str:
    """Return errors as a table of Markdown: with the class, then with another."""
    head = ["recipe", f"log(sigma / alpha) = {LEVELS[0]:g}", *(f"{level:g}" for level in LEVELS[1:])]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for name, row in zip(names, rows, strict=True):
        cells = (f"{with_it:.3f} / {with_other:.3f}" for with_it, with_other in row)
        lines.append(f"| {' | '.join([name, *cells])} |")
    return "\n".join(lines) + "\n"


def main(cache: str, runs: Sequence[str]) -> None:
    """Print the table of runs of classes."""
    rows = errors_of(Path(cache), [Path(run) for run in runs])
    deliver(as_table([Path(run).parent.name for run in runs], rows), end="")


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
