"""The error of a reconstruction, as peak signal-to-noise ratio."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def psnr(original: NDArray[np.uint8], copy: NDArray[np.uint8]) -> float:
    """Return the mean peak signal-to-noise ratio of samples (n, ...) in dB; identical ones count as 100."""
    error = (original.astype(np.float64) - copy.astype(np.float64)).reshape(len(original), -1)
    return float((10 * np.log10(255**2 / np.square(error).mean(1).clip(255**2 * 1e-10))).mean())
