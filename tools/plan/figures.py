"""The figures of a plan: arithmetic, traffic and disk, as plain numbers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from core.engine.config import EngineConfig
from core.memory.state import ParameterGroup
from models.denoisers.network import DenoiserConfig, output_channels, train_flops
from models.weights import shapes_only
from tools.plan import traffic
from tools.plan.config import PlanConfig
from tools.plan.memory import Setting
from tools.plan.step_samples import LATENT_BYTES, Bucket, Workload

AGAIN = {"none": 0.0, "selective": 0.0, "every_k": 0.5, "full": 1.0}
"""Share of the forward pass that is computed again; what `selective` repeats is small."""


def parts_of(model: DenoiserConfig, bucket: Bucket, workload: Workload) -> dict[str, int]:
    """Return the FLOPs of training on one sample, by part of the network."""
    macs, passes = model.macs_by_part(bucket.shape[1:], workload.text_tokens), workload.objective.passes
    return {name: 2 * passes * count for name, count in macs.items()}


def step_flops(model: DenoiserConfig, workload: Workload, policy: str = "none") -> float:
    """Return the FLOPs of a mean step of all ranks, with what a policy computes again."""
    text, passes = workload.text_tokens, workload.objective.passes
    whole = sum(
        bucket.share * bucket.group * train_flops(model, bucket.shape[1:], text, passes=passes)
        for bucket in workload.buckets
    )
    return workload.groups_per_step * whole * (1 + AGAIN[policy] / passes)


def micro_batches_per_step(workload: Workload, setting: Setting) -> float:
    """Return how many micro-batches a rank takes in a mean step."""
    each = (
        bucket.share * math.ceil(workload.rank_share(bucket) / size)
        for bucket, size in zip(workload.buckets, setting.micro_batches, strict=True)
    )
    return workload.groups_per_step * sum(each)


@dataclass(frozen=True)
class StateTraffic:
    """The traffic of a step for the state of training. calls: the payloads of its collectives, by kind.

    sent: bytes of a rank.  overlaps: whether arithmetic hides them.  sharers: ranks that share one copy.
    """

    calls: dict[str, float]
    sent: float
    overlaps: bool
    sharers: int


def state_traffic(
    groups: Sequence[ParameterGroup],
    engine: EngineConfig,
    workload: Workload,
    setting: Setting,
    plan: PlanConfig,
) -> StateTraffic:
    """Return what a step sends for the state of training."""
    bf16, stage = engine.precision == "bf16", setting.zero_stage
    micro_batches = micro_batches_per_step(workload, setting)
    if engine.kind == "fsdp2":
        copy = setting.copy
        replicas, last = plan.ranks // copy, engine.reduce == "last"
        calls = traffic.fsdp_payloads(
            groups,
            copy,
            replicas,
            zero_stage=stage,
            bf16=bf16,
            micro_batches=micro_batches,
            reduces_last=last,
        )
        return StateTraffic(calls, traffic.fsdp_sent(calls, copy, replicas), True, copy)
    numbers = sum(group.numbers for group in groups)
    reduced = replace(engine, zero_stage=stage).reduces_in_fp32(plan.ranks)
    calls = traffic.payloads(
        numbers, zero_stage=stage, bf16=bf16, micro_batches=micro_batches, fp32_reduced=reduced
    )
    return StateTraffic(calls, traffic.sent(calls, plan.ranks), stage == 3, plan.ranks if stage else 1)


def shared_calls(
    model: DenoiserConfig, engine: EngineConfig, workload: Workload, setting: Setting
) -> dict[str, float]:
    """Return the payloads of a mean step's collectives for the tokens of samples that ranks share."""
    heads = model.attention_heads(setting.degree)
    if setting.degree == 1 or heads is None:
        return {}
    with shapes_only():
        blocks = len(model.build().blocks)
    total: dict[str, float] = {}
    for bucket in workload.buckets:
        out = output_channels(model) * math.prod(bucket.shape[1:]) // bucket.tokens
        network = traffic.SharedNetwork(blocks, heads.count, heads.count * heads.width, out)
        calls = traffic.shared_tokens(
            network,
            bucket.tokens,
            setting.degree,
            number_bytes=2 if engine.precision == "bf16" else 4,
            policy=setting.policy,
        )
        samples = workload.groups_per_step * bucket.share * workload.rank_share(bucket)
        for kind, size in calls.items():
            total[kind] = total.get(kind, 0.0) + samples * size
    return total


def cache_bytes(workload: Workload, plan: PlanConfig, text_width: int) -> int:
    """Return the size of the latent cache, without what tars and indexes add."""
    text = workload.text_tokens * text_width * LATENT_BYTES
    return sum(
        bucket.samples * (plan.moments * math.prod(bucket.shape) * LATENT_BYTES + text)
        for bucket in workload.buckets
    )


def update_bytes(numbers: int, averages: int, moments: int = 2) -> int:
    """Return the bytes that an update moves for so many numbers, if it touches each once.

    Read are the gradient, once for its norm and once for the update, weight, moments and averages; all but
    the gradient are written, and the weight also in the dtype that the network computes with.
    """
    return numbers * (4 * (2 + 2 * (1 + moments + averages)) + 2)
