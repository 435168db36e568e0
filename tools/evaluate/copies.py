"""Near-copies: generated images that show what a training image shows, whatever is lost in detail."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

SIDE = 16  # pixels of a thumbnail
ALIKE = 0.95  # correlation of two thumbnails, from which on one is a near-copy of the other


def share_of_copies(images: NDArray[np.uint8], training: NDArray[np.uint8]) -> float:
    """Return the share of images (n, H, W, 3) of which some training image (m, H, W, 3) is a near-copy."""
    return float((_thumbnails(images) @ _thumbnails(training).T >= ALIKE).any(1).mean())


def _thumbnails(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return thumbnails (n, 3 SIDE^2) of mean 0 and length 1, so that products are correlations."""
    rows = []
    for start in range(0, len(images), 256):
        pixels = (
            torch.from_numpy(np.ascontiguousarray(images[start : start + 256])).permute(0, 3, 1, 2).float()
        )
        rows.append(F.interpolate(pixels, (SIDE, SIDE), mode="area").flatten(1))
    vectors = torch.cat(rows)
    return F.normalize(vectors - vectors.mean(1, keepdim=True)).numpy()
