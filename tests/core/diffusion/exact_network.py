"""Networks that predict exactly: of mixtures of Gaussians of which some modes belong to a class or a text."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from core.batch import Condition
from core.diffusion.paths.path import Path
from core.diffusion.predictions import Level, Prediction, target

SHAPE = (2, 1, 1, 1)  # of a sample's latents
MEANS = torch.tensor([[1.5, 0.2], [-1.0, 0.8], [0.3, -1.4], [-0.5, -0.6]], dtype=torch.float64)
SHARES = torch.tensor([0.4, 0.1, 0.3, 0.2], dtype=torch.float64)
VARIANCE = 0.2
CLASS = torch.tensor([0, 1, 0, 1])  # of each mode
TEXT = torch.tensor([1, 1, 2, 2])  # the length of the text that each mode answers to


@dataclass(frozen=True)
class ExactNetwork:
    """The exact prediction on a path whose time_input is 1000 t, in the dtype of x.

    variance: of each mode; with another than the data's the network is a worse one.
    """

    path: Path
    prediction: Prediction
    variance: float = VARIANCE

    def __call__(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        t = time.double().expand(len(x)) / 1000
        at = self.path.alpha(t), self.path.sigma(t)
        score = self.score(x, *at, allowed(condition, len(x)))
        alpha, sigma = (level.reshape(-1, 1, 1, 1, 1) for level in at)
        noise = -sigma * score
        return target(self.prediction, (x - sigma * noise) / alpha, noise, alpha, sigma)

    def score(self, x: Tensor, alpha: Tensor, sigma: Tensor, modes: Tensor) -> Tensor:
        with torch.enable_grad():
            moved = x.detach().requires_grad_()
            total = log_density(moved, alpha, sigma, modes, self.variance).sum()
            (gradient,) = torch.autograd.grad(total, moved)
        return gradient


def levels(path: Path, t: float) -> tuple[float, float]:
    at = torch.tensor(t, dtype=torch.float64)
    return float(path.alpha(at)), float(path.sigma(at))


def allowed(condition: Condition, count: int) -> Tensor:
    """Return (B, modes): which modes a condition leaves."""
    modes = torch.ones(count, len(SHARES), dtype=torch.bool)
    if condition.label is not None:
        label = condition.label[:, None]
        modes &= (label < 0) | (label == CLASS)
    if condition.text_length is not None:
        length = condition.text_length[:, None]
        modes &= (length == 0) | (length == TEXT)
    return modes


def log_density(x: Tensor, alpha: Level, sigma: Level, modes: Tensor, variance: float = VARIANCE) -> Tensor:
    """Return (B,) log p_t(x) of the modes that are left, each with its share of all.

    alpha, sigma: numbers, or (B,).
    """
    alpha, sigma = (torch.as_tensor(level, dtype=torch.float64).reshape(-1, 1) for level in (alpha, sigma))
    spread = alpha**2 * variance + sigma**2
    distance = (x.flatten(1)[:, None] - alpha[..., None] * MEANS).square().sum(-1)
    logs = SHARES.log() - distance / (2 * spread) - torch.log(2 * torch.pi * spread)
    return logs.masked_fill(~modes, -torch.inf).logsumexp(1)


def class_log_probabilities(x: Tensor, alpha: float, sigma: float) -> Tensor:
    """Return (B, classes) log p(class | x_t)."""
    everything = torch.ones(len(x), len(SHARES), dtype=torch.bool)
    of_classes = [log_density(x, alpha, sigma, everything & (number == CLASS)) for number in (0, 1)]
    return torch.stack(of_classes, 1) - log_density(x, alpha, sigma, everything)[:, None]
