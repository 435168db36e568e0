"""The figures of a plan: arithmetic, traffic, time and disk, as plain numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from core.engine.config import EngineConfig
from core.metrics.devices import Device
from models.denoisers.network import DenoiserConfig, train_flops
from tools.plan import traffic
from tools.plan.config import PlanConfig
from tools.plan.memory import Setting
from tools.plan.step_samples import LATENT_BYTES, Bucket, Workload

AGAIN = {"none": 0.0, "selective": 0.0, "every_k": 0.5, "full": 1.0}
"""Share of the forward pass that is computed again; what `selective` repeats is small."""
HOUR_S = 3600.0


@dataclass(frozen=True)
class Times:
    """Seconds of a step.  compute: at the data sheet's peak, or the stated share of it.  traffic: if nothing
    of it is hidden behind arithmetic; None where a link is not known."""

    compute: float
    traffic: float | None


def parts_of(model: DenoiserConfig, bucket: Bucket, text_tokens: int) -> dict[str, int]:
    """Return the FLOPs of training on one sample, by part of the network."""
    return {name: 6 * macs for name, macs in model.macs_by_part(bucket.shape[1:], text_tokens).items()}


def step_flops(model: DenoiserConfig, workload: Workload, policy: str = "none") -> float:
    """Return the FLOPs of a mean step of all ranks, with what a policy computes again."""
    whole = sum(
        bucket.share * bucket.group * train_flops(model, bucket.shape[1:], workload.text_tokens)
        for bucket in workload.buckets
    )
    return workload.groups_per_step * whole * (1 + AGAIN[policy] / 3)


def micro_batches_per_step(workload: Workload, setting: Setting) -> float:
    """Return how many micro-batches a rank takes in a mean step."""
    each = (
        bucket.share * math.ceil(workload.rank_share(bucket) / size)
        for bucket, size in zip(workload.buckets, setting.micro_batches, strict=True)
    )
    return workload.groups_per_step * sum(each)


def calls(numbers: int, engine: EngineConfig, workload: Workload, setting: Setting) -> dict[str, float]:
    """Return the payloads of a step's collectives for the state of training."""
    return traffic.payloads(
        numbers,
        zero_stage=setting.zero_stage,
        bf16=engine.precision == "bf16",
        micro_batches=micro_batches_per_step(workload, setting),
    )


def times(flops: float, sent: float, plan: PlanConfig, device: Device) -> Times:
    """Return how long a step takes at least on these GPUs, or at `plan.mfu`."""
    compute = flops / plan.ranks / (device.tflops * 1e12 * (plan.mfu or 1.0))
    link = device.link if plan.ranks <= plan.ranks_per_node else plan.network_gb_s * 1e9
    return Times(compute, sent / link if link else None)


def cache_bytes(workload: Workload, plan: PlanConfig, text_width: int) -> int:
    """Return the size of the latent cache, without what tars and indexes add."""
    text = workload.text_tokens * text_width * LATENT_BYTES
    return sum(
        bucket.samples * (plan.moments * math.prod(bucket.shape) * LATENT_BYTES + text)
        for bucket in workload.buckets
    )


def checkpoint_bytes(numbers: int, averages: int) -> int:
    """Return the size of a checkpoint: weights, two moments and the averages, in fp32."""
    return 4 * numbers * (3 + averages)


def costs(step_s: float, steps: int, plan: PlanConfig, device: Device) -> Mapping[str, Any]:
    """Return what the whole run takes: hours, GPU-hours, energy in kWh and price; None where not known."""
    hours = step_s * steps / HOUR_S
    gpu_hours = hours * plan.ranks
    return {
        "days": hours / 24,
        "gpu_hours": gpu_hours,
        "energy_kwh": gpu_hours * device.watts / 1000 if device.watts else None,
        "price": gpu_hours * plan.price if plan.price else None,
    }
