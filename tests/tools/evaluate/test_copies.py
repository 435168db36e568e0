"""Near-copies: what counts as one, and the pairs that are shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.media.pictures import enlarge
from tools.evaluate import copies


def blocks(seed: int, count: int) -> np.ndarray:
    return (
        np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), np.uint8).repeat(16, 1).repeat(16, 2)
    )


def share_of_copies(images: np.ndarray, training: np.ndarray) -> float:
    return nearest(images, training).share_of_copies


def nearest(images: np.ndarray, training: np.ndarray) -> copies.Nearest:
    return copies.nearest(copies.thumbnails(images), copies.thumbnails(training))


def test_blurred_and_brighter_copies_are_found_and_other_pictures_are_not() -> None:
    training = blocks(0, 5)
    noise = np.random.default_rng(1).normal(0, 20, training[:2].shape)
    altered = np.clip(training[:2] * 0.7 + 40 + noise, 0, 255).astype(np.uint8)
    assert share_of_copies(np.concatenate([altered, blocks(2, 2)]), training) == 0.5
    assert share_of_copies(training[:, ::-1].copy(), training) == 0


def test_pictures_of_one_colour_are_no_copies() -> None:
    assert share_of_copies(np.full((1, 32, 32, 3), 9, np.uint8), np.zeros((1, 32, 32, 3), np.uint8)) == 0


def test_the_closest_pairs_come_first_and_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copies, "BLOCK", 3)
    training = blocks(0, 7)
    images = np.concatenate([blocks(3, 4), training[5:6], (training[2:3] * 0.5).astype(np.uint8)])
    found = nearest(images, training)
    shares, pairs = copies.shares(found, nearest(training[:1], training), seed=0), copies.closest(found)
    shown = [images[pair["sample"]] for pair in pairs], [training[pair["training"]] for pair in pairs]
    copies.draw(*shown, tmp_path)
    assert [(pair["sample"], pair["training"]) for pair in pairs[:2]] == [(4, 5), (5, 2)]
    assert pairs[0]["correlation"] == pytest.approx(1, abs=1e-4)
    assert [pair["correlation"] for pair in pairs] == sorted((p["correlation"] for p in pairs), reverse=True)
    assert 0 < shares.pop("copies_interval") < 0.5
    assert shares == {"copies": pytest.approx(2 / 6), "copies_real": 1}
    sheet = np.asarray(Image.open(tmp_path / copies.PICTURE))
    windows = np.lib.stride_tricks.sliding_window_view(sheet, (128, 128, 3))[::1, ::1, 0]
    first = enlarge(images[4], 2)
    assert any((window == first).all() for window in windows[:16].reshape(-1, 128, 128, 3))
