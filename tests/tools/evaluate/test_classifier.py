"""The judge: repeatable, unmoved by where things stand, and right about easy shapes."""

from __future__ import annotations

import numpy as np
import torch

from core.draws import Draws
from tools.evaluate import classifier
from tools.evaluate.classified import looks

QUICK = classifier.Training(steps=60, batch=32, width=8)


def shapes(count: int, seed: int, size: int = 32) -> tuple[np.ndarray, np.ndarray]:
    """Draw bars, horizontal (0) or vertical (1), at random places."""
    random = np.random.default_rng(seed)
    frames, labels = np.zeros((count, size, size, 3), np.uint8), random.integers(0, 2, count)
    for frame, label, place in zip(frames, labels, random.integers(4, size - 8, count), strict=True):
        (frame if label == 0 else frame.transpose(1, 0, 2))[place : place + 4, 4:-4] = 255
    return frames, labels


def test_learns_shapes_and_repeats_itself() -> None:
    frames, labels = shapes(200, 0)
    first, again = (
        classifier.train_classifier(classifier.to_input(frames), labels, 2, 3, QUICK) for _ in range(2)
    )
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    unseen, answers = shapes(100, 1)
    verdict = classifier.judge(first, classifier.to_input(unseen))
    assert verdict.agreement(answers) > 0.95
    assert verdict.features.shape == (100, 64)
    assert np.allclose(verdict.probabilities.sum(1), 1)
    assert verdict.agreement(1 - answers) < 0.05


def test_judging_does_not_depend_on_the_batch() -> None:
    frames, labels = shapes(50, 0)
    model = classifier.train_classifier(
        classifier.to_input(frames), labels, 2, 0, classifier.Training(steps=5, batch=8, width=8)
    )
    x = classifier.to_input(frames)
    whole, parts = classifier.judge(model, x, 50), classifier.judge(model, x, 7)
    assert np.allclose(whole.features, parts.features, atol=1e-5)


def test_clips_are_judged_by_their_middle_frames() -> None:
    frames, labels = shapes(200, 0)
    model = classifier.train_classifier(classifier.to_input(frames), labels, 2, 3, QUICK)
    middle, answers = shapes(20, 5)
    clips = np.random.default_rng(0).integers(0, 256, (20, 9, 32, 32, 3), np.uint8)
    clips[:, 3:6] = middle[:, None]
    assert classifier.judge_clips(model, looks.middle_of(clips)).agreement(answers) > 0.9
    assert np.array_equal(classifier.middle_frames(clips), clips[:, 3:6])
    assert classifier.middle_frames(clips[:, :1]).shape[1] == 1


def test_other_sizes_are_resized() -> None:
    frames, _ = shapes(2, 0, size=64)
    assert classifier.to_input(frames).shape == (2, 3, 32, 32)


def test_batches_run_through_whole_epochs() -> None:
    rows = np.concatenate([classifier._batch_rows(10, step, 4, seed=0) for step in range(5)])
    assert sorted(rows[:10]) == sorted(rows[10:]) == list(range(10))


def test_augmentation_is_keyed_and_brings_in_black() -> None:
    x = torch.ones(8, 3, 32, 32)
    rows = torch.arange(8)
    once, twice = (classifier.augment(x, Draws(0, 1, rows, rows)) for _ in range(2))
    assert torch.equal(once, twice)
    assert torch.equal(classifier.augment(x[3:5], Draws(0, 1, rows[3:5], rows[3:5])), once[3:5])
    assert once.min() == -1
    assert once.max() <= 1 + 1e-5
