"""Measures on features of many samples, computed in blocks so that memory stays bounded."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tools.evaluate.jackknife import BLOCKS, LEAST, blocks_of, half_width
from tools.evaluate.measures import subset

Features = NDArray[np.float32]
ROWS = 512  # of a block of distances: 0.95 GB of them beside 50,000 features


@dataclass(frozen=True)
class Spread:
    """A mean over parts of the samples, the standard deviation of its parts, and half its 95 % interval.

    The parts may overlap, so the deviation says nothing of the mean.  half_width: nan where none is known.
    """

    value: float
    deviation: float
    half_width: float = math.nan


def kernel_distance(
    generated: Features, real: Features, seed: int, subsets: int = 100, size: int = 1000
) -> Spread:
    """Return KID (Bińkowski et al. 2018): the unbiased squared MMD with the kernel (x·y / d + 1)^3.

    The mean over `subsets` random subsets of `size` on each side (fewer where there are not as many), and
    their standard deviation, as torch-fidelity's defaults have it. Its interval leaves a block of generated
    samples out of all subsets at once, and needs subsets of 200 or more.
    """
    size = min(size, len(generated), len(real))
    block = blocks_of(len(generated), seed)
    found, without = [], []
    for number in range(subsets):
        rows = subset(len(generated), size, (number,), seed, "kid generated")
        a = generated[rows].astype(np.float64)
        b = real[subset(len(real), size, (number,), seed, "kid real")].astype(np.float64)
        if size < LEAST:
            found.append(unbiased_mmd(a, b))
            continue
        whole, rest = mmd_without(a, b, block[rows])
        found.append(whole)
        without.append(rest)
    interval = half_width(np.mean(without, axis=0)) if without else math.nan
    return Spread(float(np.mean(found)), float(np.std(found)), interval)


def unbiased_mmd(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Return the unbiased estimate of the squared MMD of (n, d) and (m, d) with KID's kernel."""
    within, between, real = _kernels(a, b)
    n, m = between.shape
    return float(within.sum() / (n * (n - 1)) + real - 2 * between.sum() / (n * m))


def mmd_without(
    a: NDArray[np.float64], b: NDArray[np.float64], block: NDArray[np.int64]
) -> tuple[float, NDArray[np.float64]]:
    """Return `unbiased_mmd`, and its values (10,) with each block of `a` left out.  block: of each row."""
    within, between, real = _kernels(a, b)
    n, m = between.shape
    member = np.eye(BLOCKS)[block]
    each = np.ones(n) @ within @ member  # sums of pairs with a member of the block: twice those within it
    kept = within.sum() - 2 * each + ((within @ member) * member).sum(0)
    left = n - member.sum(0)
    rows = between.sum(1)
    whole = within.sum() / (n * (n - 1)) + real - 2 * rows.sum() / (n * m)
    return float(whole), kept / (left * (left - 1)) + real - 2 * (rows.sum() - rows @ member) / (left * m)


def _kernels(
    a: NDArray[np.float64], b: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return KID's kernel within `a`, 0 of a row with itself, that between both, and its mean within `b`."""
    width, m = a.shape[1], len(b)
    within_a, within_b = ((x @ x.T / width + 1) ** 3 for x in (a, b))
    np.fill_diagonal(within_a, 0)
    real = float((within_b.sum() - np.trace(within_b)) / (m * (m - 1)))
    return within_a, (a @ b.T / width + 1) ** 3, real


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
    return neighbours_without(generated, real, np.zeros(len(generated), np.int64), 0, k, dense_k)[0]


def neighbours_without(
    generated: Features,
    real: Features,
    block: NDArray[np.int64],
    blocks: int = BLOCKS,
    k: int = 3,
    dense_k: int = 5,
) -> list[Neighbours]:
    """Return `neighbours` of all, then with each block of generated samples left out, in one pass.

    block: of each generated sample (n,), below `blocks`.  A sample that is left out has no ball, and those
    that it was a neighbour of reach further. The jackknife's interval of precision and density, means over
    generated samples, is the usual one of a mean. Recall and coverage depend on several samples at once, and
    there its variance is too large in the mean, never too small (Efron and Stein 1981): by 1.3 to 1.7 and by
    1.2 to 1.4 times in width on Gaussians, where intervals by disjoint blocks were too narrow.
    """
    real_reach, real_dense = _reaches(real, (k, dense_k))
    kept = np.stack([block != left_out for left_out in range(-1, blocks)])
    reach = np.where(kept, _reaches_without(generated, block, blocks, k), -1)
    inside, balls = np.zeros(len(generated), bool), np.zeros(len(generated), np.int64)
    covered, within_real = (np.zeros((len(kept), len(real)), bool) for _ in range(2))
    for rows, squared in _blocks(generated, real):
        dense = squared <= real_dense
        inside[rows], balls[rows] = (squared <= real_reach).any(1), dense.sum(1)
        for number, keep in enumerate(kept):
            covered[number] |= dense[keep[rows]].any(0)
            within_real[number] |= (squared <= reach[number, rows, None]).any(0)
    return [
        Neighbours(
            float(inside[keep].mean()),
            float(within_real[number].mean()),
            float(balls[keep].sum() / (dense_k * keep.sum())),
            float(covered[number].mean()),
        )
        for number, keep in enumerate(kept)
    ]


def _reaches_without(
    features: Features, block: NDArray[np.int64], blocks: int, k: int
) -> NDArray[np.float32]:
    """Return the squared distance of every feature to its k-th nearest other one: (1 + blocks, n).

    First among all, then among those outside each block.
    """
    members = [np.flatnonzero(block == number) for number in range(max(1, blocks))]
    found = np.empty((1 + blocks, len(features)), np.float32)
    for rows, squared in _blocks(features, features):
        squared[np.arange(len(squared)), np.arange(rows.start, rows.start + len(squared))] = np.inf
        near = [_smallest(squared[:, some], k) for some in members]
        for number in range(1 + blocks):
            others = [each for left_out, each in enumerate(near) if left_out != number - 1]
            found[number, rows] = np.partition(np.concatenate(others, 1), k - 1)[:, k - 1]
    return found


def _smallest(values: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    """Return the smallest of each row, in any order: all where there are no more than `count`."""
    return values if values.shape[1] <= count else np.partition(values, count - 1)[:, :count]


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
