"""Fit what samples cost to measured times, and choose groups of all shapes that take the same time.

A micro-batch of m samples of S tokens takes F + m (c + a S + b S^2): a fixed part for what does not grow with
samples, and a sample's own, which `data.cost_fixed`, `cost_linear` and `cost_quadratic` hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import NamedTuple

import numpy as np

from core.errors import UserError
from data.order.buckets import GroupConfig, group_sizes, sample_cost

EVEN = 0.03  # spread of group times that counts as even
CLOSE = EVEN / 3  # predicted spread from which on the group sizes nearest to the configured ones are taken
_CANDIDATES = 1001  # odd, so that the configured size is among them
_TERMS = 4
_EQUAL = 1e-9  # difference of two fits' errors that is rounding


class Point(NamedTuple):
    """The seconds that a micro-batch of so many samples of so many tokens took."""

    samples: int
    tokens: int
    seconds: float


@dataclass(frozen=True)
class CostModel:
    """Seconds of a micro-batch: micro_batch + samples (fixed + linear S + quadratic S^2); none below 0."""

    micro_batch: float
    fixed: float
    linear: float
    quadratic: float

    def seconds(self, samples: int, tokens: int) -> float:
        """Return the predicted seconds of a micro-batch."""
        return self.micro_batch + samples * self.sample(tokens)

    def sample(self, tokens: int) -> float:
        """Return what each further sample adds."""
        return self.fixed + self.linear * tokens + self.quadratic * tokens**2

    def share_seconds(self, share: int, at_once: int, tokens: int) -> float:
        """Return the predicted seconds of a rank's share of a group, cut into micro-batches."""
        whole, rest = divmod(share, at_once)
        return whole * self.seconds(at_once, tokens) + (self.seconds(rest, tokens) if rest else 0.0)


def fit(points: Sequence[Point]) -> CostModel:
    """Fit non-negative terms with the least relative error (each point counts alike, whatever it takes).

    Every subset of the four terms is solved by least squares, and the best without a negative one taken; of
    equal ones, the one with fewer terms, and the linear term first. So fewer than three lengths, which leave
    some terms undetermined, are still met exactly.
    """
    samples, tokens, seconds = (np.array(column, np.float64) for column in zip(*points, strict=True))
    rows = np.stack([samples * tokens, np.ones_like(samples), samples, samples * tokens**2], 1)
    rows /= seconds[:, None]
    scales = np.abs(rows).max(0)
    best, error = np.zeros(_TERMS), math.inf
    for count in range(1, _TERMS + 1):
        for chosen in map(list, combinations(range(_TERMS), count)):
            found = np.linalg.lstsq(rows[:, chosen] / scales[chosen], np.ones_like(samples), rcond=None)[0]
            if (found < 0).any():
                continue
            terms = np.zeros(_TERMS)
            terms[chosen] = found / scales[chosen]
            missed = float(np.linalg.norm(rows @ terms - 1))
            if missed < error - _EQUAL:
                best, error = terms, missed
    linear, micro_batch, fixed, quadratic = best.tolist()
    return CostModel(micro_batch, fixed, linear, quadratic)


def error_of(model: CostModel, points: Sequence[Point]) -> float:
    """Return the largest relative error of the model at measured points."""
    return max(abs(model.seconds(p.samples, p.tokens) / p.seconds - 1) for p in points)


def spread(seconds: Sequence[float], shares: Sequence[float]) -> float:
    """Return longest less shortest over the mean of group times.  shares: of groups; 0 does not count."""
    used = [second for second, share in zip(seconds, shares, strict=True) if share]
    weights = [share for share in shares if share]
    return (max(used) - min(used)) / float(np.average(used, weights=weights))


class Choice(NamedTuple):
    """Settings of groups, their sizes, and by how much the model says that their times spread."""

    data: GroupConfig
    sizes: list[int]
    spread: float


def choose(
    model: CostModel,
    tokens: Sequence[int],
    at_once: Callable[[int, int], int],
    shares: Sequence[float],
    ranks: int,
    data: GroupConfig,
) -> Choice:
    """Return settings whose groups take the same time as far as their multiples allow.

    Between half and twice the configured size (that of the bucket whose samples cost least), the nearest to
    it whose predicted spread is at most CLOSE; where there is none, the one with the least spread.

    tokens, shares: of each bucket, of a sample, and its share of the groups.  at_once: of the number of a
    bucket and a rank's share of its group, how many samples of that a rank takes at once.
    ranks: that hold different samples; UserError unless `rank_multiple` is a multiple of them, so that any
    multiple can be shared.
    """
    if data.rank_multiple % ranks:
        expected = f"a multiple of the {ranks} data-parallel ranks, so that groups can be chosen freely"
        raise UserError("data.rank_multiple", data.rank_multiple, expected)
    sizes = group_sizes(tokens, data)
    found: dict[tuple[int, ...], tuple[float, Choice]] = {}
    for terms in _sample_costs(model, tokens, [at_once(b, n // ranks) for b, n in enumerate(sizes)]):
        unit = min(map(terms.sample, tokens)) / min(tokens)
        costed = replace(
            data,
            cost_fixed=terms.fixed / unit,
            cost_linear=terms.linear / unit,
            cost_quadratic=terms.quadratic / unit,
        )
        costs = [sample_cost(count, costed) for count in tokens]
        cheapest = costs.index(min(costs))
        for factor in np.geomspace(0.5, 2, _CANDIDATES):
            candidate = replace(costed, group_cost=float(sizes[cheapest] * costs[cheapest] * factor))
            chosen, far = group_sizes(tokens, candidate), abs(math.log(factor))
            if tuple(chosen) in found and found[tuple(chosen)][0] <= far:
                continue
            seconds = [
                model.share_seconds(size // ranks, at_once(bucket, size // ranks), tokens[bucket])
                for bucket, size in enumerate(chosen)
            ]
            found[tuple(chosen)] = far, Choice(candidate, chosen, spread(seconds, shares))
    near = [(far, choice) for far, choice in found.values() if choice.spread <= CLOSE]
    if near:
        return min(near, key=lambda pair: pair[0])[1]
    return min(found.values(), key=lambda pair: pair[1].spread)[1]


def _sample_costs(model: CostModel, tokens: Sequence[int], at_once: Sequence[int]) -> list[CostModel]:
    """Return costs of a sample that group sizes may follow: its own, and with its part of a micro-batch's.

    The first is right where every group is one micro-batch, the second where groups have many.
    """
    pairs = zip(at_once, tokens, strict=True)
    whole = fit([Point(1, count, model.seconds(most, count) / most) for most, count in pairs])
    shared = CostModel(0.0, whole.micro_batch + whole.fixed, whole.linear, whole.quadratic)
    own = replace(model, micro_batch=0.0)
    return [own, shared] if any(own.sample(count) for count in tokens) else [shared]
