"""The Inception score of predictions."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tools.evaluate.features.pairs import Features
from tools.evaluate.features.spread import Spread
from tools.evaluate.jackknife import BLOCKS, LEAST, STUDENT, blocks_of, half_width
from tools.evaluate.measures import subset

SPLIT = 5_000  # images of a split of ADM's evaluator


def inception_score(logits: Features, seed: int) -> Spread:
    """Return the Inception score (Salimans et al. 2016) of logits (N, K), the mean over splits as ADM's.

    Of a split it is exp of the mean KL divergence of p(y|x) from p(y), which is estimated within the split.
    Splits are 5,000 samples each in the order given, the last one shorter. The interval, from 200 samples on,
    is the jackknife's, a block being left out of all splits at once.
    """
    block, count = blocks_of(len(logits), seed), len(logits)
    splits = [slice(first, first + SPLIT) for first in range(0, count, SPLIT)]
    found = np.array([_with_and_without(logits[rows], block[rows]) for rows in splits])
    scores, without = found[:, 0], found[:, 1:].mean(0)
    has_interval = count >= LEAST and bool(np.isfinite(without).all())
    deviation = float(scores.std()) if len(scores) > 1 else math.nan
    return Spread(float(scores.mean()), deviation, half_width(without) if has_interval else math.nan)


def shuffled_inception_score(logits: Features, seed: int) -> Spread:
    """Return the same over 10 splits of shuffled samples, as torch-fidelity makes them.

    A split has 10 samples or more, so that few samples make fewer splits. Splits are apart, hence the
    interval of their mean, from 200 samples on, is Student's: of the expected score of splits of that size.
    """
    order = subset(len(logits), len(logits), (), seed, "inception score")
    splits = np.array_split(order, max(1, min(BLOCKS, len(logits) // 10)))
    scores = np.array([_score(*_sums(logits[rows])) for rows in splits])
    has_interval = len(splits) == BLOCKS and len(logits) >= LEAST
    half = STUDENT * float(scores.std(ddof=1)) / math.sqrt(BLOCKS) if has_interval else math.nan
    return Spread(float(scores.mean()), float(scores.std()), half)


def _sums(logits: Features) -> tuple[int, NDArray[np.float64], float]:
    """Return the number of samples (n, K), and the sums (K,) of p(y|x) and of its p log p."""
    p, gains = _predicted(logits)
    return len(p), p.sum(0), float(gains.sum())


def _predicted(logits: Features) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return p(y|x) (n, K) and the sum (n,) of p log p of each sample."""
    values = logits.astype(np.float64)
    log_p = values - np.logaddexp.reduce(values, axis=1, keepdims=True)
    p = np.exp(log_p)
    return p, (p * log_p).sum(1)


def _with_and_without(logits: Features, block: NDArray[np.int64]) -> list[float]:
    """Return the score of a split (n, K), and those without each of the blocks; nan where nothing is left."""
    p, gains = _predicted(logits)
    inside = np.arange(BLOCKS)[:, None] == block  # (10, n)
    sizes, sums, gained = inside.sum(1), inside @ p, inside @ gains
    whole = _score(len(p), p.sum(0), float(gains.sum()))
    left = [_score(len(p) - sizes[n], sums.sum(0) - sums[n], gained.sum() - gained[n]) for n in range(BLOCKS)]
    return [whole, *left]


def _score(count: int, sums: NDArray[np.float64], gain: float) -> float:
    """Return the score of so many samples.  sums: (K,), of p(y|x).  gain: the sum of p log p."""
    if not count:
        return math.nan
    marginal = np.maximum(sums, 0) / count
    log_marginal = np.log(marginal, out=np.zeros_like(marginal), where=marginal > 0)
    return math.exp(gain / count - float(marginal @ log_marginal))
