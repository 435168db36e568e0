"""The judge of generated samples: a classifier of real ones, or, without classes, plain pixels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from einops import rearrange, repeat
from numpy.typing import NDArray

from tools.evaluate.classifier import (
    Classifier,
    Training,
    judge,
    judge_clips,
    to_input,
    train_classifier,
)

if TYPE_CHECKING:
    from tools.evaluate.real_samples import RealSamples

CLIP_EXAMPLES = 3  # frames of each real clip that the classifier learns from


@dataclass(frozen=True)
class Judge:
    """Gives features of images, and the share of samples that look like their class (nan if it cannot)."""

    classifier: Classifier | None

    def agreement(self, pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> float:
        """Return the share of samples that show their label (N,), nan if that is not known."""
        agreeing = self.agreeing(pixels, labels)
        return float(agreeing.mean()) if len(agreeing) else float("nan")

    def agreeing(self, pixels: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return 1 for each of images (N, H, W, 3), or clips (N, T, H, W, 3), that shows its label, else 0.

        Clips show what their middle does.  (0,) where nothing can be told: without a classifier or labels.
        """
        if self.classifier is None or not len(pixels) or (labels < 0).any():
            return np.zeros(0)
        verdict = judge_clips(self.classifier, pixels) if pixels.ndim == 5 else judge(self.classifier, pixels)
        return verdict.agreeing(labels)

    def features(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return (N, 64): the classifier's penultimate layer, or the grey image at 8x8."""
        if not len(images):
            return np.zeros((0, 64))
        if self.classifier is not None:
            return judge(self.classifier, images).features
        grey = to_input(images).mean(1).unflatten(1, (8, 4)).unflatten(3, (8, 4)).mean((2, 4))
        return rearrange(grey, "n h w -> n (h w)").double().numpy()


def make_judge(train: RealSamples, steps: int, seed: int) -> Judge:
    """Train the classifier on real images and on frames of real clips, if these have at least two classes."""
    frames, labels = training_frames(train)
    known = labels >= 0
    if len(np.unique(labels[known])) < 2:
        return Judge(None)
    return Judge(
        train_classifier(frames[known], labels[known], len(train.classes), seed, Training(steps=steps))
    )


def training_frames(train: RealSamples) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return all images, and of each clip the frames at 1/4, 1/2 and 3/4: (N, H, W, 3), with labels (N,)."""
    times = np.linspace(0, max(0, train.clips.shape[1] - 1), CLIP_EXAMPLES + 2).round().astype(int)[1:-1]
    from_clips = rearrange(
        train.clips[:, times] if len(train.clips) else train.clips, "n t h w c -> (n t) h w c"
    )
    if not len(from_clips):
        return train.images, train.image_labels
    labels: NDArray[np.int64] = repeat(train.clip_labels, "n -> (n t)", t=len(times))
    if not len(train.images):
        return from_clips, labels
    return np.concatenate([train.images, from_clips]), np.concatenate([train.image_labels, labels])
