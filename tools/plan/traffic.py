"""Bytes that a rank sends in a step for the state of training, by ZeRO stage."""

from __future__ import annotations

from core.memory.state import FP32, LIVE


def payloads(numbers: int, *, zero_stage: int, bf16: bool, micro_batches: float) -> dict[str, float]:
    """Return the bytes that collectives of a step are called with, by kind, as DeepSpeed 0.19 calls them.

    numbers: trainable ones of the network.  micro_batches: of a rank in a step.
    Stage 0 sums fp32 gradients once a step; 1 sums those of the computing dtype once; 2 and 3 after every
    micro-batch. Stages 1 and 2 sum whole buckets on every rank, of which each keeps its part. At stage 3
    weights are gathered once a step, as long as all fit among those that are kept (`core.memory.state.LIVE`),
    else for every forward and every backward pass.
    """
    width = 2 if bf16 else FP32
    if zero_stage == 0:
        return {"all_reduce": float(numbers * FP32)}
    if zero_stage < 3:
        sums = 1.0 if zero_stage == 1 else micro_batches
        return {"all_reduce": sums * numbers * width, "all_gather": float(numbers * width)}
    gathers = 1.0 if numbers <= LIVE else 2 * micro_batches
    return {"reduce_scatter": micro_batches * numbers * width, "all_gather": gathers * numbers * width}


def sent(calls: dict[str, float], ranks: int) -> float:
    """Return the bytes that each rank sends for these collectives, by rings.

    A ring sends (N - 1) / N of a gathered or scattered payload, and twice that of a sum (Patarasuk and Yuan,
    2009).
    """
    rounds = {"all_reduce": 2, "all_gather": 1, "reduce_scatter": 1}
    return sum(rounds[name] * size for name, size in calls.items()) * (ranks - 1) / ranks
