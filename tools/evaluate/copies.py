"""Near-copies of training pictures among generated ones: how many, and the closest pairs to look at."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from data.media.pictures import enlarge, enlargement, page, write_png
from tools.evaluate.measures import bootstrap_interval
from tools.runs import score_names as names

SIDE = 16  # pixels of a thumbnail
ALIKE = 0.95  # correlation of two thumbnails, from which on one is a near-copy of the other
SHOWN = 8  # pairs
PICTURE = "closest_pairs.png"
BLOCK = 1024  # pictures compared at once
Images = NDArray[np.uint8]
Thumbnails = NDArray[np.float32]


@dataclass(frozen=True)
class Nearest:
    """The nearest training picture of each image: its number (n,), and the correlation of thumbnails (n,)."""

    number: NDArray[np.int64]
    correlation: NDArray[np.float32]

    @property
    def are_copies(self) -> NDArray[np.float64]:
        """Return 1 for each image that is a near-copy, else 0."""
        return (self.correlation >= ALIKE).astype(np.float64)

    @property
    def share_of_copies(self) -> float:
        return float(self.are_copies.mean())


def nearest(own: Thumbnails, others: Thumbnails) -> Nearest:
    """Find for each image the training picture with the most similar thumbnail; of both, `thumbnails`."""
    number, correlation = np.empty(len(own), np.int64), np.empty(len(own), np.float32)
    for start in range(0, len(own), BLOCK):
        rows = slice(start, start + BLOCK)
        alike = own[rows] @ others.T
        number[rows], correlation[rows] = alike.argmax(1), alike.max(1)
    return Nearest(number, correlation)


def closest(found: Nearest, count: int = SHOWN) -> list[dict[str, Any]]:
    """List the pairs that are most alike, by the numbers of sample and training picture."""
    order = np.argsort(-found.correlation, kind="stable")[:count]
    return [
        {
            "sample": int(i),
            "training": int(found.number[i]),
            "correlation": round(float(found.correlation[i]), 4),
        }
        for i in order
    ]


def shares(found: Nearest, heldout: Nearest | None, seed: int) -> dict[str, float]:
    """Return the share of near-copies, that of held-out pictures too, None for none.

    seed: of the interval of the share.
    """
    interval = bootstrap_interval(found.are_copies, seed)
    named = {names.COPIES: found.share_of_copies, names.interval(names.COPIES): interval}
    if heldout is not None:
        named[names.real(names.COPIES)] = heldout.share_of_copies
    return named


def draw(images: Sequence[Images], training: Sequence[Images], output: Path) -> None:
    """Draw generated pictures (H, W, 3) above their nearest training pictures, in their order."""
    factor = enlargement(max(images[0].shape[:2]), 120)
    cells = [[enlarge(picture, factor) for picture in row] for row in (images, training)]
    write_png(output / PICTURE, page(cells, ["generated", "training"]))


def thumbnails(images: Images) -> Thumbnails:
    """Return thumbnails (n, 3 SIDE^2) of mean 0 and length 1, so that products are correlations."""
    rows = []
    for start in range(0, len(images), 256):
        pixels = (
            torch.from_numpy(np.ascontiguousarray(images[start : start + 256])).permute(0, 3, 1, 2).float()
        )
        rows.append(F.interpolate(pixels, (SIDE, SIDE), mode="area").flatten(1))
    vectors = torch.cat(rows)
    return F.normalize(vectors - vectors.mean(1, keepdim=True)).numpy()
