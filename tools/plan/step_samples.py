"""The samples of a step: shapes, group sizes and shares, from a cache or from what stands for one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import torch

from core.diffusion.objectives.config import ObjectiveConfig
from core.distributed.ranks import World
from core.engine.config import EngineConfig
from core.errors import UserError, below
from core.memory.state import ParameterGroup
from core.optim.groups import OptimizerConfig
from data.order.bucket_rows import BucketRows
from data.order.buckets import check_ranks, group_sizes
from data.order.steps import BucketSamples, group_shares
from models.denoisers.network import DenoiserConfig
from tools.plan.config import PlanConfig
from tools.runs.memory.run_memory import groups_of
from tools.train.alignment import alignment_of
from tools.train.config import DataConfig
from tools.train.denoiser_pass import USUAL, Aligned
from tools.train.source import open_source, require_features, require_stills, require_suited
from tools.train.training_data import make_loader

LATENT_BYTES = 2  # of a number in a cache
Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class Bucket:
    """Samples of one shape. shape: (C, T, H, W) of the latents.  share: of the groups, all sum to 1."""

    name: str
    shape: Shape
    samples: int
    tokens: int
    group: int
    share: float


@dataclass(frozen=True)
class Workload:
    """The buckets, groups and samples that steps are made of.

    groups_per_step: of all ranks.  data_ranks: that have samples of their own.  text_tokens: of a caption.
    aligned: with what a block is aligned, for each bucket; () for none.  objective: what is learned.
    """

    buckets: Sequence[Bucket]
    groups_per_step: int
    data_ranks: int
    text_tokens: int
    aligned: Sequence[Aligned] = ()
    objective: ObjectiveConfig = USUAL

    @property
    def own(self) -> list[ParameterGroup]:
        """The objective's own parameters: the projector's."""
        return groups_of(self.aligned[0].alignment.projector, OptimizerConfig()) if self.aligned else []

    @property
    def samples(self) -> int:
        """Samples of an epoch."""
        return sum(bucket.samples for bucket in self.buckets)

    @property
    def samples_per_step(self) -> float:
        """Samples of a mean step, of all ranks."""
        return self.groups_per_step * sum(bucket.group * bucket.share for bucket in self.buckets)

    def rank_share(self, bucket: Bucket) -> int:
        """Return the samples of a group that are a rank's."""
        return bucket.group // self.data_ranks


def workload(
    source: str,
    autoencoder: str,
    plan: PlanConfig,
    data: DataConfig,
    model: DenoiserConfig,
    engine: EngineConfig,
    objective: ObjectiveConfig,
) -> Workload:
    """Read a source's samples, or take those that `plan.samples` and `plan.shapes` state."""
    if plan.ranks % engine.sequence_parallel:
        expected = f"a divisor of plan.ranks={plan.ranks}"
        raise UserError("engine.sequence_parallel", engine.sequence_parallel, expected)
    data_ranks = plan.ranks // engine.sequence_parallel
    if source:
        return _of_source(source, plan, data, model, engine, autoencoder, data_ranks, objective)
    if data.features != "none":
        raise UserError("source", "''", f"one that has features, with data.features={data.features}")
    otherwise = ", or a source that has samples: a latent cache, or a raw dataset with its autoencoder"
    if not plan.shapes:
        said = "shapes of latents, such as [[4,1,32,32]] or those in a file of configs/plan/"
        raise UserError("plan.shapes", "[]", said + otherwise)
    if not plan.samples:
        raise UserError("plan.samples", 0, "how many samples there are" + otherwise)
    return _of_shapes(plan, data, model, data_ranks, objective)


def _of_shapes(
    plan: PlanConfig, data: DataConfig, model: DenoiserConfig, data_ranks: int, objective: ObjectiveConfig
) -> Workload:
    for shape in plan.shapes:
        if shape[0] != model.input_channels:
            expected = f"{model.input_channels} channels, as model.input_channels says"
            raise UserError("plan.shapes", list(shape), expected)
    with below("model"):
        tokens = [model.tokens(shape[1:]) for shape in plan.shapes]
    names = ["latents " + "x".join(map(str, shape)) for shape in plan.shapes]
    with below("data"):
        sizes = group_sizes(tokens, data)
        check_ranks(names, sizes, data_ranks, data)
        counts = _counts(plan)
        samples = [
            BucketSamples(name, _rows(count), size, shape[1] > 1)
            for name, count, size, shape in zip(names, counts, tokens, plan.shapes, strict=True)
        ]
        shares = group_shares(samples, sizes, data.video_share)
    buckets = [Bucket(*row) for row in zip(names, plan.shapes, counts, tokens, sizes, shares, strict=True)]
    of_step = data.groups_per_step, data_ranks, plan.text_tokens
    return Workload(buckets, *of_step, objective=objective)


def _rows(count: int) -> BucketRows:
    """Return rows of which only the number counts."""
    return range(count)  # type: ignore[return-value]


def _counts(plan: PlanConfig) -> list[int]:
    """Share out the samples among the buckets; all are counted."""
    shares = [Fraction(share) for share in plan.shares] or [Fraction(1)] * len(plan.shapes)
    counts = [int(plan.samples * share / sum(shares)) for share in shares]
    counts[0] += plan.samples - sum(counts)
    return counts


def _of_source(
    source: str,
    plan: PlanConfig,
    data: DataConfig,
    model: DenoiserConfig,
    engine: EngineConfig,
    autoencoder: str,
    data_ranks: int,
    objective: ObjectiveConfig,
) -> Workload:
    opened = open_source(source, autoencoder, data, run=Path(), text=model.text_width > 0)
    require_suited(opened, model)
    require_features(opened, data)
    require_stills(opened, data)
    world = World(0, plan.ranks, 0, torch.device("cpu"))
    steps = make_loader(opened, data, engine, model, world, seed=0).plan
    facts = opened.facts
    text = facts.text_shape[0] if facts.text_shape is not None and model.text_width else 0
    buckets = [
        Bucket(str(samples), shape, len(samples.rows), model.tokens(shape[1:]), size, share)
        for samples, shape, size, share in zip(
            steps.buckets, facts.latent_shapes, steps.group_sizes, steps.weights, strict=True
        )
    ]
    block = alignment_of(data, objective.alignment, model, facts, 1)
    aligned = [Aligned(block, shape) for shape in facts.feature_shapes] if block else []
    return Workload(buckets, data.groups_per_step, data_ranks, text, aligned, objective)
