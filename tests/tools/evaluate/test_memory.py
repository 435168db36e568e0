"""A score of 50,000 pictures beside 50,000 fits in 4 GiB, by arithmetic from small ones."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest

from models.extractors import inception
from tools.evaluate.extractors.inception_scores import SPATIAL_WIDTH
from tools.evaluate.features.halves import Halves
from tools.evaluate.features.kernels import gaussian_mmd, kernel_distance
from tools.evaluate.features.neighbours import near
from tools.evaluate.jackknife import distance_interval, without_bias
from tools.evaluate.moments import Moments, Reference

PICTURES, WIDTH, GIB = 50_000, inception.WIDTH, 2**30
COUNTS, WIDTHS = (2048, 4096), (32, 64)
# Features and logits of both sides, and spatial features of one.
KEPT = 4 * PICTURES * (2 * (WIDTH + inception.CLASSES) + SPATIAL_WIDTH)
SPATIAL = 4 * 8 * SPATIAL_WIDTH**2  # sums of either side, and two matrices of their distance
PROGRAM = GIB // 2  # Python, torch, and the network


def sums(features: np.ndarray) -> Moments:
    moments = Moments.empty(features.shape[1])
    moments.add(features)
    return moments


MEASURES: dict[str, Callable[[np.ndarray, np.ndarray], object]] = {
    "neighbours": lambda made, real: near(made, real, Halves.of(len(made), len(real), 0)),
    "cmmd": lambda made, real: gaussian_mmd(made, real, 10.0),
    "kid": lambda made, real: kernel_distance(made, real, 0, subsets=2),
    "interval": lambda made, real: distance_interval(made, Reference.of(sums(real)), 0),
    "infinite": lambda made, real: without_bias(made, Reference.of(sums(real)), 0),
}


@pytest.mark.parametrize("name", MEASURES)
def test_every_measure_of_fifty_thousand_fits(name: str) -> None:
    """Memory is a + b N + c D + d N D, measured at two sizes of each, and squares of D, which are added."""
    peak = {}
    for count, width in itertools.product(COUNTS, WIDTHS):
        random = np.random.default_rng(0)
        made, real = (random.standard_normal((count, width), np.float32) for _ in range(2))
        tracemalloc.start()
        MEASURES[name](made, real)
        peak[count, width] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    (few, many), (narrow, wide) = COUNTS, WIDTHS
    each = (peak[many, wide] - peak[many, narrow] - peak[few, wide] + peak[few, narrow]) / (
        (many - few) * (wide - narrow)
    )
    of_count = (peak[many, narrow] - peak[few, narrow]) / (many - few) - each * narrow
    of_width = (peak[few, wide] - peak[few, narrow]) / (wide - narrow) - each * few
    rest = peak[few, narrow] - of_count * few - of_width * narrow - each * few * narrow
    whole = rest + of_count * PICTURES + of_width * WIDTH + each * PICTURES * WIDTH
    if name in ("interval", "infinite"):
        whole += 14 * 8 * WIDTH**2  # sums of 10 blocks, the reference, its root, and two products
    assert whole + KEPT + SPATIAL + PROGRAM < 4 * GIB
