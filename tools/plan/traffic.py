"""Bytes that a rank sends in a step: for the state of training, by ZeRO stage, and for shared tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from core.memory.state import FP32, LIVE, ParameterGroup
from models.attention.by_heads import by_ring


def payloads(
    numbers: int, *, zero_stage: int, bf16: bool, micro_batches: float, fp32_reduced: bool = False
) -> dict[str, float]:
    """Return the bytes that collectives of a step are called with, by kind, as DeepSpeed 0.19 calls them.

    numbers: trainable ones of the network.  micro_batches: of a rank in a step.
    fp32_reduced: whether gradients are sent in fp32, whatever the network computes in.
    Stage 0 sums fp32 gradients once a step; 1 sums those of the computing dtype once; 2 and 3 after every
    micro-batch. Stages 1 and 2 sum whole buckets on every rank, of which each keeps its part. At stage 3
    weights are gathered once a step, as long as all fit among those that are kept (`core.memory.state.LIVE`),
    else for every forward and every backward pass.
    """
    width = 2 if bf16 else FP32
    reduced = FP32 if fp32_reduced else width
    if zero_stage == 0:
        return {"all_reduce": float(numbers * FP32)}
    if zero_stage < 3:
        sums = 1.0 if zero_stage == 1 else micro_batches
        return {"all_reduce": sums * numbers * reduced, "all_gather": float(numbers * width)}
    gathers = 1.0 if numbers <= LIVE else 2 * micro_batches
    return {"reduce_scatter": micro_batches * numbers * reduced, "all_gather": gathers * numbers * width}


def fsdp_payloads(
    groups: Sequence[ParameterGroup],
    copy: int,
    replicas: int,
    *,
    zero_stage: int,
    bf16: bool,
    micro_batches: float,
    reduces_last: bool,
) -> dict[str, float]:
    """Return the bytes that collectives of a step are called with under FSDP2, by kind, padding included.

    copy: ranks that share one copy of the state, of which there are `replicas`.  Weights are gathered for
    every forward pass, at stage 3 those of blocks for the backward pass again; fp32 gradients are scattered
    after every micro-batch, or once a step, and what a rank gets is summed over the replicas.
    """
    padded = in_blocks = 0
    for group in groups:
        for (_, part), block in zip(group.rows(copy), group.blocks, strict=True):
            padded += copy * part
            in_blocks += copy * part if block else 0
    again = (in_blocks or padded) if zero_stage == 3 else 0
    reductions = 1.0 if reduces_last else micro_batches
    calls = {
        "all_gather": micro_batches * (padded + again) * (2 if bf16 else FP32) * (copy > 1),
        "reduce_scatter": reductions * padded * FP32 * (copy > 1),
        "all_reduce": reductions * padded / copy * FP32 * (replicas > 1),
    }
    return {kind: size for kind, size in calls.items() if size}


def fsdp_sent(calls: dict[str, float], copy: int, replicas: int) -> float:
    """Return the bytes that each rank sends for these collectives, of a copy and between replicas."""
    between = {kind: size for kind, size in calls.items() if kind == "all_reduce"}
    within = {kind: size for kind, size in calls.items() if kind != "all_reduce"}
    return sent(within, copy) + sent(between, replicas)


def sent(calls: dict[str, float], ranks: int) -> float:
    """Return the bytes that each rank sends for these collectives, by rings.

    A ring sends (N - 1) / N of a gathered or scattered payload, and twice that of a sum (Patarasuk and Yuan,
    2009); so much of an exchange of all with all goes to others too. What is sent to one rank goes whole.
    """
    rounds = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1, "all_to_all": 1}
    parts = {name: rounds[name] * (ranks - 1) / ranks for name in rounds} | {"send": 1}
    return sum(parts[name] * size for name, size in calls.items())


class SharedNetwork(NamedTuple):
    """The inputs that determine the traffic of shared tokens. out: numbers of its output for a token."""

    blocks: int
    heads: int
    width: int
    out: int


def shared_tokens(
    network: SharedNetwork, tokens: int, size: int, *, number_bytes: int, policy: str
) -> dict[str, float]:
    """Return the bytes of collectives for one sample of `tokens` tokens that `size` ranks share, by kind.

    By heads, each block trades queries, keys and values for heads and its result back, forward and backward.
    By a ring, keys and values go around, and in the backward pass their gradients too, in fp32. The output is
    gathered once.  number_bytes: of a number in the network.  policy: of activation checkpointing; a block
    that is computed again sends again, but for the ring's result, which `selective` keeps.
    """
    if size == 1:
        return {}
    share = -(-tokens // size)
    numbers = network.blocks * share * network.width
    gathered = float(share * size * network.out * number_bytes)
    again = {"none": 0.0, "selective": 1.0, "every_k": 0.5, "full": 1.0}[policy]
    if not by_ring(network.heads, size):
        return {"all_to_all": 4 * numbers * number_bytes * (2 + again), "all_gather": gathered}
    again = 0.0 if policy == "selective" else again
    hops = 2 * numbers * (size - 1)
    return {"send": hops * (number_bytes * (2 + again) + FP32), "all_gather": gathered}
