"""Choose sizes of groups of all shapes that take the same time, by the cost that was fitted.

Sizes are multiples, of which small ones differ by much: 16 and 32 samples are all there is near 20. So a
smaller `data.rank_multiple` is chosen too where the configured one allows no even groups.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from core.errors import UserError
from data.order.buckets import GroupConfig, group_sizes, sample_cost
from tools.plan.measuring.cost_model import CostModel, Point, fit

EVEN = 0.03  # spread of group times that counts as even
CLOSE = EVEN / 2  # predicted spread from which on the group sizes nearest to the configured ones are taken
WASTE = 0.02  # share of the time that micro-batches may add which a size with better divisors does without
MOST = 64  # times the configured size, up to which it is said which size would be even
_NEAR = 2.0  # times and parts of the configured size, within which sizes are chosen
_CANDIDATES = 1001  # odd, so that the configured size is among them


def spread(seconds: Sequence[float], shares: Sequence[float]) -> float:
    """Return longest less shortest over the mean of group times.  shares: of groups; 0 does not count."""
    used = [second for second, share in zip(seconds, shares, strict=True) if share]
    return (max(used) - min(used)) / _mean(seconds, shares)


def _mean(seconds: Sequence[float], shares: Sequence[float]) -> float:
    return float(np.average(seconds, weights=shares))


class Choice(NamedTuple):
    """Settings of groups, their sizes, and by how much the model says that their times spread."""

    data: GroupConfig
    sizes: list[int]
    spread: float


@dataclass(frozen=True)
class GroupTimes:
    """The model of the time that a group of each bucket takes.

    tokens, shares: of each bucket, of a sample, and its share of the groups.  at_once: of the number of a
    bucket and a rank's share of its group, how many samples of that a rank takes at once.
    ranks: that hold different samples.  corrections: of each bucket, by how much groups near the chosen
    ones took longer than the model says; () is not known.
    """

    model: CostModel
    tokens: Sequence[int]
    at_once: Callable[[int, int], int]
    shares: Sequence[float]
    ranks: int
    corrections: Sequence[float] = ()

    def seconds(self, sizes: Sequence[int]) -> list[float]:
        """Return the predicted seconds of a rank's share of a group of each bucket."""
        found = []
        for bucket, size in enumerate(sizes):
            share = size // self.ranks
            at_once = self.at_once(bucket, share)
            plain = self.model.share_seconds(share, at_once, self.tokens[bucket])
            found.append(plain * self.correction(bucket))
        return found

    def correction(self, bucket: int) -> float:
        return self.corrections[bucket] if self.corrections else 1.0

    def corrected(self, sizes: Sequence[int], seconds: Sequence[float]) -> GroupTimes:
        """Return the same with these measured seconds of groups of these sizes."""
        plain = replace(self, corrections=())
        pairs = zip(seconds, plain.seconds(sizes), strict=True)
        return replace(plain, corrections=[measured / predicted for measured, predicted in pairs])

    def spread(self, sizes: Sequence[int]) -> float:
        """Return by how much the predicted times spread."""
        return spread(self.seconds(sizes), self.shares)

    def micro_batches(self, sizes: Sequence[int]) -> list[int]:
        """Return how many micro-batches a rank takes of a group of each bucket."""
        shares = [size // self.ranks for size in sizes]
        return [-(-share // self.at_once(bucket, share)) for bucket, share in enumerate(shares)]


def choose(times: GroupTimes, data: GroupConfig) -> Choice:
    """Return settings whose groups take the same time as far as whole samples allow.

    Between half and twice the configured size (that of the bucket whose samples cost least), the nearest to
    it whose predicted spread is at most CLOSE, with the largest `rank_multiple` that has such a size: it
    divides the configured one, and ranks divide it. Where none has one, what spreads least.
    UserError unless the configured `rank_multiple` is a multiple of the ranks, so that any multiple can be
    shared.
    """
    if data.rank_multiple % times.ranks:
        expected = f"a multiple of the {times.ranks} data-parallel ranks, so that groups can be chosen freely"
        raise UserError("data.rank_multiple", data.rank_multiple, expected)
    least: list[Choice] = []
    for multiple in _multiples(data.rank_multiple, times.ranks):
        found = _thrifty(times, list(_candidates(times, data, multiple, 1 / _NEAR, _NEAR)))
        near = [(far, choice) for far, choice in found if choice.spread <= CLOSE]
        if near:
            return min(near, key=lambda pair: pair[0])[1]
        least.append(min((choice for _, choice in found), key=lambda choice: choice.spread))
    return min(least, key=lambda choice: choice.spread)


def even_size(times: GroupTimes, data: GroupConfig) -> int | None:
    """Return the least `group_size` beyond the chosen ones whose groups would take the same time.

    None up to MOST times the configured one. Multiples are as small as ranks allow.
    """
    multiple = _multiples(data.rank_multiple, times.ranks)[-1]
    found = _thrifty(times, list(_candidates(times, data, multiple, _NEAR, MOST)))
    even = [choice.sizes for _, choice in found if choice.spread <= EVEN]
    costs = [sample_cost(count, data) for count in times.tokens]
    return min((sizes[costs.index(min(costs))] for sizes in even), default=None)


def _multiples(configured: int, ranks: int) -> list[int]:
    """Return the divisors of the configured multiple that ranks divide, the largest first."""
    return [m for m in range(configured, 0, -1) if configured % m == 0 and m % ranks == 0]


def _candidates(
    times: GroupTimes, data: GroupConfig, multiple: int, least: float, most: float
) -> Iterator[tuple[float, Choice]]:
    """Yield settings of `least` to `most` times the configured size in multiples, and how far from it."""
    sizes = group_sizes(times.tokens, data)
    known: dict[tuple[int, ...], float] = {}
    for terms in _sample_costs(times, sizes):
        unit = min(map(terms.sample, times.tokens)) / min(times.tokens)
        costed = replace(
            data,
            rank_multiple=multiple,
            cost_fixed=terms.fixed / unit,
            cost_linear=terms.linear / unit,
            cost_quadratic=terms.quadratic / unit,
        )
        costs = [sample_cost(count, costed) for count in times.tokens]
        cheapest = costs.index(min(costs))
        for factor in np.geomspace(least, most, _CANDIDATES):
            candidate = replace(costed, group_cost=float(sizes[cheapest] * costs[cheapest] * factor))
            chosen, far = group_sizes(times.tokens, candidate), abs(math.log(factor))
            if known.get(tuple(chosen), math.inf) > far:
                known[tuple(chosen)] = far
                yield far, Choice(candidate, chosen, times.spread(chosen))


def _thrifty(times: GroupTimes, found: list[tuple[float, Choice]]) -> list[tuple[float, Choice]]:
    """Return the candidates whose shares divide well into micro-batches; all where none does.

    A share of 17 samples of which 8 fit at once has 17 micro-batches, one of 16 has two.
    """
    buckets = range(len(times.tokens))
    shares = [[size // times.ranks for size in choice.sizes] for _, choice in found]
    most = [max(times.at_once(b, each[b]) for each in shares) for b in buckets]

    def waste(choice: Choice) -> float:
        counts = times.micro_batches(choice.sizes)
        needed = [-(-(size // times.ranks) // most[b]) for b, size in enumerate(choice.sizes)]
        more = [times.model.micro_batch * (has - need) for has, need in zip(counts, needed, strict=True)]
        return _mean(more, times.shares) / _mean(times.seconds(choice.sizes), times.shares)

    return [pair for pair in found if waste(pair[1]) <= WASTE] or found


def _sample_costs(times: GroupTimes, sizes: Sequence[int]) -> list[CostModel]:
    """Return costs of a sample that group sizes may follow: its own, and with its part of a micro-batch's.

    The first is right where every group is one micro-batch, the second where groups have many.
    """
    model, own, whole = times.model, [], []
    for bucket, (size, tokens) in enumerate(zip(sizes, times.tokens, strict=True)):
        at_once, longer = times.at_once(bucket, size // times.ranks), times.correction(bucket)
        own.append(Point(1, tokens, model.sample(tokens) * longer))
        whole.append(Point(1, tokens, model.seconds(at_once, tokens) / at_once * longer))
    return [_of_samples(points) for points in (own, whole) if all(point.seconds for point in points)]


def _of_samples(points: Sequence[Point]) -> CostModel:
    """Return the cost of samples, to which micro-batches of one add nothing."""
    found = fit(points)
    return CostModel(0.0, found.micro_batch + found.fixed, found.linear, found.quadratic)
