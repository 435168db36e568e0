"""A small convolutional classifier of 32x32 frames, trained on real ones: the judge of generated samples."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from einops import rearrange, reduce
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from core.draws import Draws
from core.optim.descent import descend
from core.permutations import permutation

SIDE = 32  # pixels; every frame is resized to this before it is judged


@dataclass(frozen=True)
class Training:
    """Settings of a judge's training, which a reader of the scores may want to know."""

    steps: int = 500
    batch: int = 128
    learning_rate: float = 3e-3
    weight_decay: float = 0.02
    width: int = 24


class Classifier(nn.Module):
    """Three strided convolution blocks, a 64-wide penultimate layer (the features), and one linear layer."""

    def __init__(self, classes: int, width: int = 24) -> None:
        super().__init__()
        blocks: list[nn.Module] = []
        channels = 3
        for out in (width, 2 * width, 4 * width):
            blocks += [nn.Conv2d(channels, out, 3, stride=2, padding=1), nn.BatchNorm2d(out), nn.ReLU()]
            channels = out
        self.body = nn.Sequential(*blocks)
        self.penultimate = nn.Linear(channels * (SIDE // 8) ** 2, 64)
        self.last = nn.Linear(64, classes)

    def features(self, x: Tensor) -> Tensor:
        """Map frames (B, 3, 32, 32) in [-1, 1] to features (B, 64), before the last non-linearity."""
        return self.penultimate(rearrange(self.body(x), "b c h w -> b (c h w)"))

    def forward(self, x: Tensor) -> Tensor:
        """Map frames (B, 3, 32, 32) in [-1, 1] to logits (B, classes)."""
        return self.last(functional.relu(self.features(x)))


@dataclass(frozen=True)
class Verdict:
    """The judge's answers on N frames. probabilities: (N, classes); features: (N, 64) float64."""

    probabilities: NDArray[np.float64]
    features: NDArray[np.float64]

    def agreement(self, labels: NDArray[np.int64]) -> float:
        """Return the share of frames whose most probable class is `labels` (N,)."""
        return float(self.agreeing(labels).mean())

    def agreeing(self, labels: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return 1 for each frame whose most probable class is its label (N,), else 0."""
        return (self.probabilities.argmax(1) == labels).astype(np.float64)


def train_classifier(
    x: Tensor, labels: NDArray[np.int64], classes: int, seed: int, training: Training
) -> Classifier:
    """Fit a classifier to real frames (N, 3, 32, 32) with labels (N,); a function of its arguments.

    AdamW, warm-up and linear decay, and random rotation, scale and shift, so that it does not matter where
    the object stands and how large it is.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Classifier(classes, training.width)
    y = torch.from_numpy(labels)

    def loss(step_index: int) -> Tensor:
        rows = torch.from_numpy(_batch_rows(len(y), step_index, training.batch, seed))
        draws = Draws(seed, step_index, rows, torch.arange(len(rows)))
        return functional.cross_entropy(model(augment(x[rows], draws)), y[rows], label_smoothing=0.05)

    model.train()
    descend(
        model,
        loss,
        steps=training.steps,
        learning_rate=training.learning_rate,
        weight_decay=training.weight_decay,
        what="train classifier",
    )
    return model.eval()


def _batch_rows(size: int, step_index: int, batch: int, seed: int) -> NDArray[np.int64]:
    """Return rows of batch `step_index` of an endless stream of per-epoch permutations."""
    epochs = range(step_index * batch // size, ((step_index + 1) * batch - 1) // size + 1)
    stream = np.concatenate([permutation(seed, "classifier rows", (epoch,), size) for epoch in epochs])
    start = step_index * batch - epochs[0] * size
    return stream[start : start + batch]


def augment(x: Tensor, draws: Draws) -> Tensor:
    """Rotate (up to 10 degrees), scale (0.8 to 1.1) and shift (up to 1/8) each frame; black comes in."""
    turn, scale, down, right = (2 * draws.uniform("classifier augmentation", (4,)) - 1).unbind(1)
    angle, size = turn * math.radians(10), 0.95 + 0.15 * scale
    cos, sin = angle.cos() / size, angle.sin() / size
    affine = torch.stack(
        [torch.stack([cos, -sin, 0.25 * right], 1), torch.stack([sin, cos, 0.25 * down], 1)], dim=1
    )
    grid = functional.affine_grid(affine, list(x.shape), align_corners=False)
    return functional.grid_sample(x + 1, grid, align_corners=False) - 1


@torch.no_grad()
def judge(model: Classifier, x: Tensor, batch: int = 256) -> Verdict:
    """Return the verdict of `model` on frames (N, 3, 32, 32)."""
    features = [model.features(part) for part in x.split(batch)]
    logits = [model.last(functional.relu(part)) for part in features]
    probabilities = torch.cat(logits).double().softmax(1).numpy()
    return Verdict(probabilities, torch.cat(features).double().numpy())


def judge_clips(model: Classifier, x: Tensor) -> Verdict:
    """Judge clips by the mean probabilities and features of their middle frames, (N, T, 3, 32, 32)."""
    verdict, count = judge(model, x.flatten(0, 1)), x.shape[1]
    return Verdict(
        reduce(verdict.probabilities, "(n t) c -> n c", "mean", t=count),
        reduce(verdict.features, "(n t) d -> n d", "mean", t=count),
    )


def middle_frames(clips: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the (at most) three frames in the middle of clips (N, T, H, W, C)."""
    centre = clips.shape[1] // 2
    return clips[:, max(0, centre - 1) : centre + 2]


def to_input(frames: NDArray[np.uint8]) -> Tensor:
    """Turn frames (N, H, W, 3) of any size into the classifier's input: float32 (N, 3, 32, 32) in [-1, 1]."""
    x = rearrange(torch.from_numpy(frames), "n h w c -> n c h w").float() / 127.5 - 1
    if x.shape[-2:] == (SIDE, SIDE):
        return x
    return functional.interpolate(x, (SIDE, SIDE), mode="bilinear", antialias=True)
