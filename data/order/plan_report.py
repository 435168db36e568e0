"""Describe a plan of steps in lines for people: samples, shares and costs of its buckets."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from core.progress import counted
from data.order.buckets import sample_cost
from data.order.steps import StepPlan


def bucket_lines(plan: StepPlan) -> list[str]:
    """Return one line for each source where there are several, and for each bucket: samples, share,
    group, micro-batch, predicted cost.

    The totals follow.
    """
    total, costs = sum(len(bucket.rows) for bucket in plan.buckets), _costs(plan)
    mean = float(np.average(costs, weights=plan.weights))
    lines = _source_lines(plan, total)
    sized = zip(plan.buckets, plan.group_sizes, plan.weights, costs, strict=True)
    for number, (bucket, size, weight, cost) in enumerate(sized):
        lines.append(
            f"{bucket}: {counted(len(bucket.rows), 'sample')} ({len(bucket.rows) / total:.1%}), "
            f"{weight:.1%} of groups, groups of {size} = {counted(plan.ranks, 'rank')} x "
            f"{size // plan.ranks}, at most {plan.micro_batches(number)[0]} at once, "
            f"cost {cost:.4g} ({cost / mean:.2f} of the mean)"
        )
    return [*lines, "padding 0 %, imbalance across ranks 0 %, no sample dropped"]


def time_lines(plan: StepPlan, seconds: Sequence[float | None]) -> list[str]:
    """Return one line for each bucket: time of a group, from measured `seconds` of a sample.

    Their spread follows.

    seconds: None for a bucket that was not measured.
    """
    found = [number for number, value in enumerate(seconds) if value is not None]
    if not found:
        return []
    times = [(seconds[n] or 0.0) * plan.group_sizes[n] / plan.ranks for n in found]
    costs, weights = [_costs(plan)[n] for n in found], [plan.weights[n] for n in found]
    mean, mean_cost = (float(np.average(values, weights=weights)) for values in (times, costs))
    lines = [
        f"{plan.buckets[n]}: a group takes {1000 * took:.3g} ms, {took / mean:.2f} of the mean "
        f"(predicted {cost / mean_cost:.2f})"
        for n, took, cost in zip(found, times, costs, strict=True)
    ]
    if len(found) > 1:
        spread, foreseen = (max(times) - min(times)) / mean, (max(costs) - min(costs)) / mean_cost
        seen = (
            "" if len(found) == len(plan.buckets) else f", over {len(found)} of {len(plan.buckets)} buckets"
        )
        lines.append(
            f"measured spread of group times {spread:.0%} (predicted {foreseen:.0%}{seen}): longest less "
            "shortest, over the mean; forward and backward"
        )
    return lines


def _source_lines(plan: StepPlan, total: int) -> list[str]:
    lines = []
    for source in dict.fromkeys(bucket.source for bucket in plan.buckets if bucket.source):
        mine = [n for n, bucket in enumerate(plan.buckets) if bucket.source == source]
        samples = sum(len(plan.buckets[n].rows) for n in mine)
        share = sum(plan.weights[n] for n in mine)
        lines.append(f"{source}: {counted(samples, 'sample')} ({samples / total:.1%}), {share:.1%} of groups")
    return lines


def _costs(plan: StepPlan) -> list[float]:
    """Return the predicted cost of a group of every bucket."""
    pairs = zip(plan.buckets, plan.group_sizes, strict=True)
    return [sample_cost(bucket.tokens, plan.config) * size for bucket, size in pairs]
