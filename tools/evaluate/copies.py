"""Near-copies of training pictures among generated ones: how many, and the closest pairs to look at."""

from __future__ import annotations

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


def nearest(images: Images, training: Images) -> Nearest:
    """Find for each image (n, H, W, 3) the training picture (m, H, W, 3) with the most similar thumbnail."""
    own, others = _thumbnails(images), _thumbnails(training)
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


def report(
    images: Images, training: Images, heldout: Images, output: Path, seed: int
) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Return the share of near-copies, of held-out pictures too, and the closest pairs, which are drawn.

    seed: of the interval of the share.
    """
    found = nearest(images, training)
    interval = bootstrap_interval(found.are_copies, seed)
    shares = {names.COPIES: found.share_of_copies, names.interval(names.COPIES): interval}
    if len(heldout):
        shares[names.real(names.COPIES)] = nearest(heldout, training).share_of_copies
    pairs = closest(found)
    draw(pairs, images, training, output)
    return shares, pairs


def draw(pairs: list[dict[str, Any]], images: Images, training: Images, output: Path) -> None:
    """Draw generated pictures above their nearest training pictures, the most similar pair first."""
    factor = enlargement(max(images.shape[1:3]), 120)
    rows = (
        [images[pair["sample"]] for pair in pairs],
        [training[pair["training"]] for pair in pairs],
    )
    cells = [[enlarge(picture, factor) for picture in row] for row in rows]
    write_png(output / PICTURE, page(cells, ["generated", "training"]))


def _thumbnails(images: Images) -> NDArray[np.float32]:
    """Return thumbnails (n, 3 SIDE^2) of mean 0 and length 1, so that products are correlations."""
    rows = []
    for start in range(0, len(images), 256):
        pixels = (
            torch.from_numpy(np.ascontiguousarray(images[start : start + 256])).permute(0, 3, 1, 2).float()
        )
        rows.append(F.interpolate(pixels, (SIDE, SIDE), mode="area").flatten(1))
    vectors = torch.cat(rows)
    return F.normalize(vectors - vectors.mean(1, keepdim=True)).numpy()
