"""What became of work on all ranks, told without a table of all of them on each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch.distributed as dist

from core.distributed import waiting
from core.distributed.ranks import Group, joined, outcome


def on_all_ranks(work: Callable[[], Any]) -> Any:
    """Return this rank's `work()`, or raise the first rank's UserError or WorkError on all (collective)."""
    result, failure = outcome(work)
    if found := _first_of(failure):
        kind, words = found[1]
        raise kind(*words)
    return result


def gather_to_first(value: Any, group: Group = None) -> list[Any]:
    """Return every rank's small, plain `value` in rank order on rank 0, [] on the others (collective).

    A rank is sent those of its part of the tree, log2(ranks) / 2 on the mean (`core/distributed/tree.py`).
    """
    return waiting.exchange([value], joined, group, to_all=False) or []


def first_of_ranks(values: Sequence[Any], most: int) -> tuple[list[Any], int]:
    """Return the first `most` of all ranks' small, plain values, in rank order, and how many there are in all
    (collective).
    """
    found: tuple[list[Any], int] = waiting.exchange(
        (list(values[:most]), len(values)),
        lambda parts: (joined([some for some, _ in parts])[:most], sum(count for _, count in parts)),
    )
    return found


def tally_of_ranks(values: Iterable[str]) -> Counter[str]:
    """Return how often each value occurs among those of all ranks, which are of few kinds (collective)."""
    found: Counter[str] = waiting.exchange(Counter(values), lambda parts: sum(parts, Counter()))
    return found


def least_of_ranks(value: Any) -> Any:
    """Return the least of all ranks' small, plain values (collective)."""
    return waiting.exchange(value, min)


def first_problem(text: str, group: Group = None) -> tuple[int, str] | None:
    """Return the first rank whose `text` is not empty, with that; None where all are (collective)."""
    return _first_of(text, group)


def _first_of(problem: Any, group: Group = None) -> tuple[int, Any] | None:
    rank = dist.get_rank() if dist.is_initialized() else 0
    found: tuple[int, Any] | None = waiting.exchange((rank, problem) if problem else None, _first, group)
    return found


def _first(problems: Sequence[tuple[int, Any] | None]) -> tuple[int, Any] | None:
    return next((problem for problem in problems if problem), None)
