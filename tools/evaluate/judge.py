"""The judge of generated samples: a classifier of real ones, or, without classes, plain pixels."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from numpy.typing import NDArray
from torch import Tensor

from core.checkpoint.tensor_file import load_tensors, write_tensors
from tools.evaluate.classifier import Classifier, Training, judge, judge_clips, train_classifier

FEATURES = 64  # numbers of an image
CLASSES = "classes"  # in its file: how many the classifier knows, 0 without one


@dataclass(frozen=True)
class Judge:
    """Gives features of images, and says which samples look like their class.

    Frames are as the classifier sees them, (N, 3, 32, 32) (`classifier.to_input`).
    """

    classifier: Classifier | None

    def agreeing(self, x: Tensor, labels: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return 1 for each image, or clip by its middle frames (N, T, 3, 32, 32), that shows its label (N,).

        Else 0; nan where nothing can be told: without a classifier or a label.
        """
        if self.classifier is None or not len(x):
            return np.full(len(x), np.nan)
        verdict = judge_clips(self.classifier, x) if x.ndim == 5 else judge(self.classifier, x)
        return np.where(labels < 0, np.nan, verdict.agreeing(labels))

    def features(self, x: Tensor) -> NDArray[np.float64]:
        """Return (N, 64): the classifier's penultimate layer, or the grey image at 8x8."""
        if not len(x):
            return np.zeros((0, FEATURES))
        if self.classifier is not None:
            return judge(self.classifier, x).features
        grey = x.mean(1).unflatten(1, (8, 4)).unflatten(3, (8, 4)).mean((2, 4))
        return rearrange(grey, "n h w -> n (h w)").double().numpy()

    def save(self, path: Path) -> None:
        """Publish the judge as a file."""
        classes = 0 if self.classifier is None else self.classifier.last.out_features
        state = {} if self.classifier is None else self.classifier.state_dict()
        write_tensors(path, {CLASSES: torch.tensor([classes]), **state})

    @classmethod
    def load(cls, path: Path) -> Judge:
        """Read a judge; DamagedCheckpoint where the file cannot be read."""
        state = load_tensors(path)
        if not (classes := int(state.pop(CLASSES))):
            return cls(None)
        model = Classifier(classes, Training.width)
        model.load_state_dict(state)
        return cls(model.eval())


def make_judge(x: Tensor, labels: NDArray[np.int64], classes: int, *, steps: int, seed: int) -> Judge:
    """Train the classifier on frames (N, 3, 32, 32), if those with a label (N,) show at least two classes."""
    known = labels >= 0
    if len(np.unique(labels[known])) < 2:
        return Judge(None)
    some = x[torch.from_numpy(known)]
    return Judge(train_classifier(some, labels[known], classes, seed, Training(steps=steps)))
