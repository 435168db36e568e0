"""Seconds of a step: by the data sheet, by a stated share of its peak, or as measured; and what they cost.

By the data sheet a step is at least its arithmetic at the peak of bf16 products, what its update moves
through memory, and the traffic that nothing hides: with ZeRO 0 to 2 all of it, since sums and gathers do not
overlap passes there, with ZeRO 3 what takes longer than the arithmetic that it runs beside. Traffic of
sequence parallelism lies between operations and is never hidden.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from core.metrics.devices import Device
from tools.plan.config import PlanConfig
from tools.plan.figures import AGAIN, update_bytes
from tools.plan.measuring.measure import Measurement
from tools.plan.memory import Setting
from tools.plan.step_samples import Workload

HOUR_S = 3600.0
NOT_COUNTED = (
    "the memory traffic of norms and other operations that are no products",
    "reading data, saving and validating",
)


@dataclass(frozen=True)
class StepTime:
    """parts: seconds of a step, which add up to it.  basis: what they rest on.  left_out: what is missing."""

    parts: Mapping[str, float]
    basis: str
    left_out: Sequence[str]

    @property
    def total(self) -> float:
        return sum(self.parts.values())


@dataclass(frozen=True)
class Sent:
    """Bytes that a rank sends in a step: for the state of training, and for the tokens of shared samples.

    overlaps: whether arithmetic hides what the state sends.  sharers: ranks that share one copy of the state.
    """

    state: float
    tokens: float
    overlaps: bool
    sharers: int


def by_data_sheet(
    flops: float, numbers: int, averages: int, sent: Sent, setting: Setting, plan: PlanConfig, device: Device
) -> StepTime:
    """Return the least that a step takes; with `plan.mfu` what it takes, as far as that is the run's own.

    flops: of a step of all ranks.  numbers: of the network.
    """
    peak = plan.ranks * device.tflops * 1e12
    if plan.mfu:
        basis = f"{plan.mfu:.0%} of the data sheet's peak, as stated, update and traffic within"
        if setting.policy in ("every_k", "full"):
            basis += ", and what is computed again on top"
        return StepTime({"arithmetic": flops / (peak * plan.mfu)}, basis, NOT_COUNTED[1:])
    own = -(-numbers // sent.sharers)
    arithmetic = flops / peak
    parts = {"arithmetic": arithmetic, "update": update_bytes(own, averages) / device.bandwidth}
    traffic, missing = _traffic(sent, setting, plan, device, arithmetic)
    basis = "the data sheet's peak, memory and links: no run is faster"
    return StepTime({**parts, **traffic}, basis, (*missing, *NOT_COUNTED))


def as_measured(
    found: Measurement,
    workload: Workload,
    sent: Sent,
    setting: Setting,
    asked: str,
    plan: PlanConfig,
    device: Device | None,
) -> StepTime:
    """Return what a step takes by the measured micro-batches and update.

    asked: the policy of activation checkpointing that was measured; of another one the arithmetic is scaled.
    """
    each = zip(workload.buckets, found.seconds, strict=True)
    again = (1 + AGAIN[setting.policy] / 3) / (1 + AGAIN[asked] / 3)
    seconds = workload.groups_per_step * sum(bucket.share * took for bucket, took in each) * again
    update = found.update / sent.sharers
    traffic, missing = _traffic(sent, setting, plan, device, seconds)
    basis = f"micro-batches and update as measured on {found.device}"
    if plan.ranks > 1:
        basis += ", traffic by the data sheet" if traffic else ", without traffic"
    return StepTime(
        {"forward and backward": seconds, "update": update, **traffic}, basis, (*missing, *NOT_COUNTED[1:])
    )


def _traffic(
    sent: Sent, setting: Setting, plan: PlanConfig, device: Device | None, arithmetic: float
) -> tuple[dict[str, float], list[str]]:
    """Return the seconds of traffic that nothing hides, by part, and what is not known."""
    if plan.ranks == 1:
        return {}, []
    within = device.link if device else 0.0
    link = within if plan.ranks <= plan.ranks_per_node else plan.network_gb_s * 1e9
    found, missing = {}, []
    if link:
        took = sent.state / link
        found["traffic"] = max(0.0, took - arithmetic) if sent.overlaps else took
    elif plan.ranks <= plan.ranks_per_node:
        missing.append("traffic, as the data sheet names no link")
    else:
        missing.append("traffic between nodes (plan.network_gb_s says how fast that is)")
    if sent.tokens and within:
        found["traffic of shared tokens"] = sent.tokens / within
    elif sent.tokens:
        missing.append("traffic of shared tokens, as the data sheet names no link")
    return found, missing


def costs(step_s: float, steps: int, plan: PlanConfig, device: Device | None) -> dict[str, Any]:
    """Return what the whole run takes: days, GPU-hours, energy in kWh and price; None where not known."""
    hours = step_s * steps / HOUR_S
    gpu_hours = hours * plan.ranks
    return {
        "days": hours / 24,
        "gpu_hours": gpu_hours,
        "energy_kwh": gpu_hours * device.watts / 1000 if device and device.watts else None,
        "price": gpu_hours * plan.price if plan.price else None,
    }
