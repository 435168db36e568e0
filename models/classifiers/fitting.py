"""Train a classifier of noisy latents: cross-entropy at times spread over the path."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import nll_loss

from core.diffusion.paths.path import Path
from core.diffusion.predictions import network_input
from core.draws import Draws
from core.optim.descent import descend
from core.permutations import permutation
from models.classifiers.kinds import ClassifierConfig, Network


@dataclass(frozen=True, kw_only=True)
class FittingConfig:
    """Settings of a classifier's training."""

    steps: int = 1000
    batch: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    seed: int = 0


def fit(
    config: ClassifierConfig, latents: Sequence[tuple[Tensor, Tensor]], path: Path, fitting: FittingConfig
) -> Network:
    """Return a classifier of noised latents, a function of its arguments.

    latents: for each shape, (N, C, T, H, W) in unit scale with labels (N,); shapes take turns by their sizes.
    Times are uniform from the first that is trained to 1; learning rate with warm-up and linear decay.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(fitting.seed)
        network = config.build()
    turns = torch.tensor([len(labels) for _, labels in latents]).double().cumsum(0)

    def loss(step: int) -> Tensor:
        bucket = int(torch.searchsorted(turns, (step * 0.6180339887498949 % 1) * turns[-1], right=True))
        return _loss(network, *latents[bucket], path, step, fitting)

    descend(
        network,
        loss,
        steps=fitting.steps,
        learning_rate=fitting.learning_rate,
        weight_decay=fitting.weight_decay,
        what="train classifier",
    )
    return network.eval().requires_grad_(False)


def _loss(
    network: Network, latents: Tensor, labels: Tensor, path: Path, step: int, fitting: FittingConfig
) -> Tensor:
    """Return the mean of -log p(label | x_t) over a batch, whose draws are keyed by step and row."""
    rows = torch.from_numpy(
        permutation(fitting.seed, "classifier rows", (step,), len(labels))[: fitting.batch]
    )
    draws = Draws(fitting.seed, step, rows, torch.arange(len(rows)))
    x, first = latents[rows], path.first
    time = first + (1 - first) * draws.uniform("classifier time")
    alpha, sigma = (level(time)[:, None, None, None, None].to(x) for level in (path.alpha, path.sigma))
    noisy = alpha * x + sigma * draws.normal("classifier noise", tuple(x.shape[1:]))
    seen = network_input(path, noisy, alpha, sigma)
    return nll_loss(network(seen, path.time_input(time).float()), labels[rows])
