"""From the order of groups to one rank's micro-batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from threading import Lock
from typing import Literal

import numpy as np

from core.config.settings import setting
from core.distributed.agreement import order_hash
from core.errors import UserError
from data.order.bucket_rows import BucketRows
from data.order.buckets import GroupConfig, check_ranks, group_sizes
from data.order.order import Order

CHECKED = 1 << 13  # samples a step, over all ranks and on average, that are hashed a second time


@dataclass(frozen=True, kw_only=True)
class LoaderConfig(GroupConfig):
    """Settings of a loader: which samples make up a step, and how far ahead they are read."""

    groups_per_step: int = setting(1, "groups in an optimizer step", low=1)
    video_share: float | None = setting(
        None, "share of groups that are videos; null follows the numbers of samples", low=0, high=1
    )
    shuffle_shards: int = setting(
        8, "number of shards whose samples are shuffled together", unit="shards", low=1
    )
    shuffle_piece: int = setting(
        2048,
        "largest piece of a shard that is shuffled at once, where a group is as large as shuffle_shards "
        "shards, which keeps the cost of a step's order low; 0: whole shards",
        unit="samples",
        low=0,
        earlier=0,
    )
    prefetch: int = setting(2, "number of steps to read ahead", unit="steps", low=1, role="work")
    verify: Literal["index", "samples", "off"] = setting(
        "index",
        "which data are compared with their checksums when read: index: each MiB of the index and its "
        "companion files, once; samples: also every sample, each time; off: none (costs: "
        "docs/benchmarks.md)",
        role="work",
    )


@dataclass(frozen=True)
class BucketSamples:
    """One bucket of one dataset. tokens: of one sample, what it costs the network.

    dataset: number of the dataset.  source: its folder or URL where there are several.
    """

    name: str
    rows: BucketRows
    tokens: int
    is_video: bool
    dataset: int = 0
    source: str = ""

    def __str__(self) -> str:
        return f"{self.name} of {self.source}" if self.source else self.name


@dataclass(frozen=True)
class MicroBatchRows:
    """The samples that one rank takes at once, of one bucket: rows (n,) and positions (n,) in the step."""

    bucket: int
    rows: np.ndarray
    positions: np.ndarray


class StepPlan:
    """Cuts every step's groups for one rank of several; every rank gets the same shapes and numbers.

    micro_batch: most samples a rank takes at once; 0 is its whole share of a group.
    mix: share of the groups of each dataset, where there are several; () follows their samples.
    UserError where the number of ranks does not divide a group.
    """

    def __init__(
        self,
        buckets: Sequence[BucketSamples],
        config: LoaderConfig,
        *,
        rank: int,
        ranks: int,
        seed: int,
        micro_batch: int = 0,
        mix: Sequence[float] = (),
    ) -> None:
        if not any(len(bucket.rows) for bucket in buckets):
            raise UserError("the dataset holds no sample that fits a bucket")
        self.buckets, self.config = list(buckets), config
        self.rank, self.ranks = rank, ranks
        self.group_sizes = group_sizes([bucket.tokens for bucket in buckets], config)
        check_ranks([str(bucket) for bucket in buckets], self.group_sizes, ranks, config)
        self.weights = group_shares(self.buckets, self.group_sizes, config.video_share, mix)
        self.order = Order(
            [bucket.rows for bucket in buckets],
            self.group_sizes,
            self.weights,
            seed=seed,
            groups_per_step=config.groups_per_step,
            block=config.shuffle_shards,
            piece=config.shuffle_piece,
        )
        self._step_samples = config.groups_per_step * max(self.group_sizes)  # the most that a step can have
        self._most = [micro_batch or self.share(number) for number in range(len(self.buckets))]
        self._lock = Lock()

    @property
    def samples(self) -> int:
        """Samples of an epoch."""
        return sum(len(bucket.rows) for bucket in self.buckets)

    def share(self, bucket: int) -> int:
        """Return how many samples of a group of this bucket a rank takes."""
        return self.group_sizes[bucket] // self.ranks

    def limit(self, most: Sequence[int]) -> None:
        """Take at most so many samples of each bucket at once; call it before the first step is asked for."""
        if len(most) != len(self.buckets) or min(most) < 1:
            raise ValueError(
                f"micro-batches {list(most)}: expected {len(self.buckets)} numbers of at least 1"
            )
        self._most = list(most)

    def micro_batch_rows(self, step_index: int) -> list[MicroBatchRows]:
        """Return this rank's micro-batches of step `step_index`, in order. Safe from several threads."""
        with self._lock:  # the order remembers permutations
            groups = self.order.part(step_index, self.rank, self.ranks)
        shares = []
        for group in groups:
            start = 0
            for size in self.micro_batches(group.bucket):
                stop = start + size
                shares.append(
                    MicroBatchRows(
                        group.bucket, group.rows[start:stop], group.offset + np.arange(start, stop)
                    )
                )
                start = stop
        return shares

    def micro_batches(self, bucket: int) -> list[int]:
        """Return how many samples of a group of this bucket a rank takes at a time, in order."""
        share, most = self.share(bucket), self._most[bucket]
        return [min(most, share - first) for first in range(0, share, most)]

    def checks(self, step_index: int) -> bool:
        """Return whether it is this rank's turn to compare what all hold in a step with the whole order.

        The ranks take turns, and steps of more than CHECKED samples are left out, so that a rank looks at
        CHECKED / ranks samples a step on average.
        """
        every = -(-self._step_samples // CHECKED)
        turn, rest = divmod(step_index, every)
        return rest == 0 and turn % self.ranks == self.rank

    def order_hash(self, step_index: int, ids: Callable[[int, np.ndarray], np.ndarray]) -> int | None:
        """Return `core.distributed.agreement.order_hash` of the whole step, None where others check it.

        ids: of the number of a bucket and rows (n,), the samples' ids (n,).
        """
        if not self.checks(step_index):
            return None
        with self._lock:
            groups = self.order.step(step_index)
        places = np.concatenate([group.offset + np.arange(len(group.rows)) for group in groups])
        return order_hash(step_index, np.concatenate([ids(g.bucket, g.rows) for g in groups]), places)

    def largest(self) -> list[MicroBatchRows]:
        """Return micro-batches that take as much memory as any: of most tokens, and of most where a kept
        score of every pair of tokens counts.

        None where all are of one shape.
        """
        used = [number for number, weight in enumerate(self.weights) if weight > 0]
        sizes = {n: self.micro_batches(n)[0] for n in used}
        tokens = {n: size * self.buckets[n].tokens for n, size in sizes.items()}
        chosen = {
            max(used, key=lambda n: tokens[n]),
            max(used, key=lambda n: tokens[n] * self.buckets[n].tokens),
        }
        with self._lock:
            return [
                MicroBatchRows(n, self.order.first(n)[: sizes[n]], np.arange(sizes[n]))
                for n in sorted(chosen if len(used) > 1 else ())
            ]


def group_shares(
    buckets: Sequence[BucketSamples],
    sizes: Sequence[int],
    video_share: float | None,
    mix: Sequence[float] = (),
) -> list[float]:
    """Return the share of the groups that each bucket gets, summing to 1.

    By default every sample is seen equally often; `mix` sets the shares of datasets, `video_share` that of
    videos against images, and inside of these samples are again seen equally often.
    """
    if mix and video_share is not None:
        raise UserError("video_share", video_share, "null where datasets are mixed by shares")
    weights = np.array([len(bucket.rows) / size for bucket, size in zip(buckets, sizes, strict=True)])
    if video_share is not None:
        is_video = [int(bucket.is_video) for bucket in buckets]
        weights = _scaled(weights, is_video, (1 - video_share, video_share), "video_share", video_share)
    elif mix:
        weights = _scaled(weights, [bucket.dataset for bucket in buckets], mix, "mix", mix)
    return (weights / weights.sum()).tolist()


def _scaled(
    weights: np.ndarray, part: list[int], wanted: Sequence[float], field: str, given: object
) -> np.ndarray:
    """Scale the weights so that those with part[i] == p sum to wanted[p].

    Raise UserError on `given` if impossible.
    """
    sums = np.bincount(part, weights, minlength=len(wanted))
    if len(sums) != len(wanted) or (sums[np.flatnonzero(wanted)] == 0).any() or not any(wanted):
        there = ", ".join(f"{100 * share:.1f} %" for share in sums / sums.sum())
        raise UserError(field, given, f"shares of what is there (by numbers of samples: {there})")
    factors = np.divide(wanted, sums, out=np.zeros(len(sums)), where=sums > 0)
    return weights * factors[part]
