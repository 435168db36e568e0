"""Put the figures of a plan together."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from core.averages.ema import EmaConfig
from core.engine.config import EngineConfig
from core.memory.free import USABLE
from core.memory.micro_batch import Measured
from core.metrics.devices import Device, by_driver, by_name
from core.train.config import TrainerConfig
from models.denoisers.network import DenoiserConfig, count_parameters
from tools.plan import figures, memory, traffic
from tools.plan.config import PlanConfig
from tools.plan.memory import Setting
from tools.plan.step_samples import Bucket, Workload


@dataclass(frozen=True)
class Run:
    """What decides a plan, of the config of a run."""

    model: DenoiserConfig
    engine: EngineConfig
    ema: EmaConfig
    trainer: TrainerConfig


def device_of(plan: PlanConfig) -> Device | None:
    """Return the device that is planned for; None where this machine has none that is known."""
    if plan.device:
        return by_name(plan.device)
    return by_driver(torch.cuda.get_device_name()) if torch.cuda.is_available() else None


def estimate(plan: PlanConfig, run: Run, work: Workload) -> dict[str, Any]:
    """Return all figures of a plan, as plain values for JSON."""
    numbers, averages = count_parameters(run.model), len(run.ema.names)
    device = device_of(plan)
    asked = run.engine.activation_checkpointing
    measured, found = _settings(numbers, plan, run, work, device)
    chosen = memory.recommend(found) if device else None
    configured = next(s for s in found if (s.zero_stage, s.policy) == (run.engine.zero_stage, asked))
    steps, per_step = run.trainer.steps, work.samples_per_step
    result: dict[str, Any] = {
        "parameters": numbers,
        "buckets": [_bucket(run.model, work, bucket) for bucket in work.buckets],
        "largest_bucket": _largest(measured[asked], work),
        "step": {"samples": per_step, "flops": figures.step_flops(run.model, work)},
        "run": {
            "steps": steps,
            "samples": steps * per_step,
            "epochs": steps * per_step / max(work.samples, 1),
        },
        "cache_bytes": figures.cache_bytes(work, plan, run.model.text_width),
        "checkpoint_bytes": figures.checkpoint_bytes(numbers, averages),
        "save_every": run.trainer.save_every,
        "ranks": plan.ranks,
        "device": _device(device) if device else None,
        "settings": [_setting(each) for each in found],
        "configured": _run_with(configured, numbers, plan, run, work, device),
        "recommended": None,
        "why": "",
    }
    if plan.encode_rate:
        result["encode_gpu_hours"] = work.samples / plan.encode_rate / figures.HOUR_S
    if chosen is not None:
        result["recommended"] = _run_with(chosen, numbers, plan, run, work, device)
        result["recommended"]["fields"] = memory.as_fields(chosen)
    elif device is not None:
        result["why"] = _missing(found, device)
    return result


def _settings(
    numbers: int, plan: PlanConfig, run: Run, work: Workload, device: Device | None
) -> tuple[dict[str, list[Measured]], list[Setting]]:
    """Count activations by policy, and what each stage takes with them.

    Policies are tried in the order of what they compute again, until one fits: the others fit too, and are
    slower. The configured one is always among them.
    """
    asked = run.engine.activation_checkpointing
    measured: dict[str, list[Measured]] = {}
    found: list[Setting] = []
    for policy in (*memory.POLICIES, asked) if device else (asked,):
        if policy in measured or (policy != asked and any(each.fits for each in found)):
            continue
        measured[policy] = memory.activations(run.model, run.engine, work, policy)
        found += memory.possible(
            numbers,
            run.engine,
            work,
            policy,
            measured[policy],
            ranks=plan.ranks,
            averages=len(run.ema.names),
            memory=device.memory if device else 0,
        )
    return measured, found


def _bucket(model: DenoiserConfig, work: Workload, bucket: Bucket) -> dict[str, Any]:
    flops = figures.parts_of(model, bucket, work.text_tokens)
    return {
        "name": bucket.name,
        "latents": list(bucket.shape),
        "samples": bucket.samples,
        "tokens": bucket.tokens,
        "group": bucket.group,
        "of_a_rank": work.rank_share(bucket),
        "share_of_groups": bucket.share,
        "flops_of_a_sample": sum(flops.values()),
        "flops_by_part": flops,
    }


def _largest(measured: Any, work: Workload) -> str:
    """Name the bucket of which a sample takes most memory."""
    sizes = [each.bytes(1) for each in measured]
    return work.buckets[sizes.index(max(sizes))].name


def _device(device: Device) -> dict[str, Any]:
    return {
        "name": device.name,
        "memory_bytes": device.memory,
        "bf16_tflops": device.tflops,
        "source": device.source,
    }


def _setting(setting: Setting) -> dict[str, Any]:
    return {
        "zero_stage": setting.zero_stage,
        "activation_checkpointing": setting.policy,
        "parts": dict(setting.parts),
        "activations": setting.activations,
        "bytes": setting.bytes,
        "micro_batches": list(setting.micro_batches),
        "fits": setting.fits,
    }


def _run_with(
    setting: Setting, numbers: int, plan: PlanConfig, run: Run, work: Workload, device: Device | None
) -> dict[str, Any]:
    """Return what the run takes with a setting: traffic, and time on a known device."""
    calls = figures.calls(numbers, run.engine, work, setting)
    sent = traffic.sent(calls, plan.ranks)
    found = {**_setting(setting), "collectives": calls, "sent_bytes_per_step": sent}
    if device is None:
        return found
    took = figures.times(figures.step_flops(run.model, work, setting.policy), sent, plan, device)
    saves_s = run.trainer.save_every * took.compute
    size = figures.checkpoint_bytes(numbers, len(run.ema.names))
    return {
        **found,
        "step_s": took.compute,
        "traffic_s": took.traffic,
        "checkpoint_bytes_per_s": size / saves_s if saves_s and math.isfinite(saves_s) else None,
        **figures.costs(took.compute, run.trainer.steps, plan, device),
    }


def _missing(found: list[Setting], device: Device) -> str:
    least = memory.smallest(found)
    usable = USABLE * device.memory
    return (
        f"nothing fits a {device.name}: the least is zero_stage={least.zero_stage} with "
        f"activation_checkpointing={least.policy}, which takes {least.bytes / 1e9:.3g} GB of a rank, and "
        f"{usable / 1e9:.3g} GB are planned with ({USABLE:.0%} of {device.memory / 1e9:g}); "
        "more ranks, or engine.sequence_parallel, take less"
    )
