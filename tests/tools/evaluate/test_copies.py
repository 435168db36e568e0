"""Near-copies: what counts as one."""

from __future__ import annotations

import numpy as np

from tools.evaluate.measures import share_of_copies


def test_blurred_and_brighter_copies_are_found_and_other_pictures_are_not() -> None:
    random = np.random.default_rng(0)
    training = random.integers(0, 256, (5, 4, 4, 3), np.uint8).repeat(16, 1).repeat(16, 2)
    noise = random.normal(0, 20, training[:2].shape)
    copies = np.clip(training[:2] * 0.7 + 40 + noise, 0, 255).astype(np.uint8)
    others = random.integers(0, 256, (2, 4, 4, 3), np.uint8).repeat(16, 1).repeat(16, 2)
    assert share_of_copies(np.concatenate([copies, others]), training) == 0.5
    assert share_of_copies(training[:, ::-1].copy(), training) == 0


def test_pictures_of_one_colour_are_no_copies() -> None:
    assert share_of_copies(np.full((1, 32, 32, 3), 9, np.uint8), np.zeros((1, 32, 32, 3), np.uint8)) == 0
