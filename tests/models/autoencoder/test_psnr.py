"""Run: pytest tests/models/autoencoder/test_psnr.py"""

from __future__ import annotations

import numpy as np
import pytest

from models.autoencoder.psnr import psnr


def test_psnr_of_a_known_error() -> None:
    original = np.zeros((2, 4, 4, 3), np.uint8)
    assert psnr(original, original + np.uint8(255)) == pytest.approx(0)
    assert psnr(original, original + np.uint8(1)) == pytest.approx(20 * np.log10(255))
    assert psnr(original, original) == pytest.approx(100)


def test_psnr_is_the_mean_over_samples() -> None:
    original = np.zeros((2, 4), np.uint8)
    copy = np.stack([original[0], original[0] + np.uint8(255)])
    assert psnr(original, copy) == pytest.approx(50)
