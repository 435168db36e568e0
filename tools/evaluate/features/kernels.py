"""Distances of two sets of features by kernels: KID and CMMD, with their intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tools.evaluate.features.pairs import Features, squared_distances
from tools.evaluate.features.spread import Spread
from tools.evaluate.jackknife import BLOCKS, LEAST, blocks_of, half_width
from tools.evaluate.measures import Floats, subset


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


def unbiased_mmd(a: Floats, b: Floats) -> float:
    """Return the unbiased estimate of the squared MMD of (n, d) and (m, d) with KID's kernel."""
    within, between, real = _kernels(a, b)
    n, m = between.shape
    return float(within.sum() / (n * (n - 1)) + real - 2 * between.sum() / (n * m))


def mmd_without(a: Floats, b: Floats, block: NDArray[np.int64]) -> tuple[float, Floats]:
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


def _kernels(a: Floats, b: Floats) -> tuple[Floats, Floats, float]:
    """Return KID's kernel within `a`, 0 of a row with itself, that between both, and its mean within `b`."""
    width, m = a.shape[1], len(b)
    within_a, within_b = ((x @ x.T / width + 1) ** 3 for x in (a, b))
    np.fill_diagonal(within_a, 0)
    real = float((within_b.sum() - np.trace(within_b)) / (m * (m - 1)))
    return within_a, (a @ b.T / width + 1) ** 3, real


def gaussian_mmd(generated: Features, real: Features, sigma: float, seed: int = 0) -> Spread:
    """Return the squared MMD with the kernel exp(-|x - y|^2 / (2 sigma^2)), in blocks.

    Every pair counts, one with itself too, as CMMD has it (Jayasumana et al. 2024): it is never below 0. Its
    interval, from 200 generated samples on, leaves blocks of them out.
    """
    member = np.eye(BLOCKS)[blocks_of(len(generated), seed)]
    sums, within_blocks = np.zeros(BLOCKS), np.zeros(BLOCKS)  # of pairs with a member, and of two members
    between, left = np.zeros(BLOCKS), len(generated) - member.sum(0)
    for rows, each in _kernel_sums(generated, generated, member, sigma):
        sums += each.sum(0)
        within_blocks += (each * member[rows]).sum(0)
    for rows, each in _kernel_sums(generated, real, np.ones((len(real), 1)), sigma):
        between += each[:, 0] @ member[rows]
    beside = sum(float(each.sum()) for _, each in _kernel_sums(real, real, np.ones((len(real), 1)), sigma))
    of_real = beside / len(real) ** 2

    def distance(count: Floats, within: Floats, across: Floats) -> Floats:
        return within / count**2 + of_real - 2 * across / (count * len(real))

    whole = distance(np.array(len(generated)), sums.sum(), between.sum())
    if len(generated) < LEAST:
        return Spread(float(whole), math.nan)
    without = distance(left, sums.sum() - 2 * sums + within_blocks, between.sum() - between)
    return Spread(float(whole), math.nan, half_width(without))


def _kernel_sums(a: Features, b: Features, weights: Floats, sigma: float) -> Iterator[tuple[slice, Floats]]:
    """Yield rows of `a`, and their kernels with all of `b` summed by weights (m, w): (rows, w)."""
    for rows, squared in squared_distances(a, b):
        yield rows, np.exp(-squared / (2 * sigma**2)) @ weights
