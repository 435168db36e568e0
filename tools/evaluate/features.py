"""Measures on features of many samples, computed in blocks so that memory stays bounded."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tools.evaluate.measures import subset

Features = NDArray[np.float32]
ROWS = 512  # of a block of distances: 0.95 GB of them beside 50,000 features


@dataclass(frozen=True)
class Spread:
    """An estimate and the half width of its 95 % interval, nan where it has none."""

    value: float
    half_width: float


def kernel_distance(
    generated: Features, real: Features, seed: int, subsets: int = 100, size: int = 1000
) -> Spread:
    """Return KID (Bińkowski et al. 2018): the unbiased squared MMD with the kernel (x·y / d + 1)^3.

    The mean over `subsets` random subsets of `size` on each side (fewer where there are not as many), and
    their standard deviation, as torch-fidelity's defaults have it. The subsets overlap, so the half width is
    that deviation: it is no interval of the mean.
    """
    size = min(size, len(generated), len(real))
    found = []
    for number in range(subsets):
        a = generated[subset(len(generated), size, (number,), seed, "kid generated")].astype(np.float64)
        b = real[subset(len(real), size, (number,), seed, "kid real")].astype(np.float64)
        found.append(unbiased_mmd(a, b))
    return Spread(float(np.mean(found)), float(np.std(found)))


def unbiased_mmd(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return the unbiased estimate of the squared MMD of (n, d) and (m, d) with KID's kernel."""
    width = a.shape[1]
    within_a, within_b = ((x @ x.T / width + 1) ** 3 for x in (a, b))
    between = (a @ b.T / width + 1) ** 3
    n, m = len(a), len(b)
    sum_a, sum_b = within_a.sum() - np.trace(within_a), within_b.sum() - np.trace(within_b)
    return float(sum_a / (n * (n - 1)) + sum_b / (m * (m - 1)) - 2 * between.mean())


def gaussian_mmd(generated: Features, real: Features, sigma: float) -> float:
    """Return the squared MMD with the kernel exp(-|x - y|^2 / (2 sigma^2)), in blocks.

    Every pair counts, one with itself too, as CMMD has it (Jayasumana et al. 2024): it is never below 0.
    """
    within = _mean_kernel(generated, generated, sigma) + _mean_kernel(real, real, sigma)
    return within - 2 * _mean_kernel(generated, real, sigma)


def _mean_kernel(a: Features, b: Features, sigma: float) -> float:
    total = sum(float(np.exp(-squared / (2 * sigma**2)).sum()) for _, squared in _squared(a, b))
    return total / (len(a) * len(b))


def inception_score(logits: Features, seed: int, splits: int = 10) -> Spread:
    """Return the Inception score (Salimans et al. 2016) and its standard deviation over splits.

    exp of the mean KL divergence of p(y|x) from p(y), which is estimated within each split; samples are
    shuffled first, as torch-fidelity does, so that classes in turns do not matter. A split has 10 samples or
    more, so that few samples make fewer splits.
    """
    order = subset(len(logits), len(logits), (), seed, "inception score")
    scores = []
    splits = max(1, min(splits, len(logits) // 10))
    for part in np.array_split(logits[order].astype(np.float64), splits):
        log_p = part - np.logaddexp.reduce(part, axis=1, keepdims=True)
        p = np.exp(log_p)
        marginal = p.mean(0)
        log_marginal = np.log(marginal, out=np.zeros_like(marginal), where=marginal > 0)
        scores.append(math.exp((p * (log_p - log_marginal)).sum(1).mean()))
    return Spread(float(np.mean(scores)), float(np.std(scores)))


@dataclass(frozen=True)
class Neighbours:
    """The share of each side within balls around the other, and how densely it lies there."""

    precision: float
    recall: float
    density: float
    coverage: float


def neighbours(generated: Features, real: Features, k: int = 3, dense_k: int = 5) -> Neighbours:
    """Return precision and recall (Kynkäänniemi et al. 2019, k = 3) and density and coverage (Naeem et al.
    2020, k = 5).

    Balls around a sample reach to its k-th nearest other one of the same side. Precision: generated ones
    within a ball around a real one; recall: the other way round; density: balls of real ones around a
    generated one, over k; coverage: real ones whose ball holds a generated one.
    """
    real_reach, real_dense = _reaches(real, (k, dense_k))
    (generated_reach,) = _reaches(generated, (k,))
    inside, balls = 0, 0
    nearest = np.full(len(real), np.inf, np.float32)
    within_real = np.zeros(len(real), bool)
    for rows, squared in _blocks(generated, real):
        inside += int((squared <= real_reach).any(1).sum())
        balls += int((squared <= real_dense).sum())
        nearest = np.minimum(nearest, squared.min(0))
        within_real |= (squared <= generated_reach[rows, None]).any(0)
    return Neighbours(
        inside / len(generated),
        float(within_real.mean()),
        balls / (dense_k * len(generated)),
        float((nearest <= real_dense).mean()),
    )


def _reaches(features: Features, ks: tuple[int, ...]) -> list[NDArray[np.float32]]:
    """Return, for each k, the squared distance of every feature to its k-th nearest other one."""
    found = [np.empty(len(features), np.float32) for _ in ks]
    for rows, squared in _blocks(features, features):
        squared[
            np.arange(len(squared)), np.arange(rows.start, rows.start + len(squared))
        ] = -1  # the point itself
        nearest = np.partition(squared, max(ks), axis=1)[:, : max(ks) + 1]
        nearest.sort(axis=1)
        for reach, k in zip(found, ks, strict=True):
            reach[rows] = nearest[:, k].clip(0)
    return found


def _blocks(a: Features, b: Features) -> Iterator[tuple[slice, NDArray[np.float32]]]:
    """Yield rows of `a` and their squared distances to all of `b`."""
    for rows, squared in _squared(a, b):
        yield rows, squared.astype(np.float32)


def _squared(a: Features, b: Features) -> Iterator[tuple[slice, NDArray[np.float64]]]:
    """Yield the same in float64."""
    square_b = np.square(b, dtype=np.float64).sum(1)
    wide_b = b.astype(np.float64)
    for start in range(0, len(a), ROWS):
        rows = slice(start, start + ROWS)
        part = a[rows].astype(np.float64)
        squared = np.square(part).sum(1)[:, None] + square_b - 2 * part @ wide_b.T
        yield rows, squared.clip(0)
