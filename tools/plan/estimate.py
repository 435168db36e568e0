"""Put the figures of a plan together."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch

from core.averages.ema import EmaConfig
from core.engine.config import EngineConfig
from core.memory.free import USABLE
from core.memory.micro_batch import Measured
from core.memory.state import ParameterGroup, checkpoint_bytes
from core.metrics.devices import Device, by_driver, by_name
from core.optim.groups import OptimizerConfig
from core.train.config import TrainerConfig
from models.denoisers.network import DenoiserConfig, count_parameters, forward_macs
from tools.plan import figures, memory, step_time, traffic
from tools.plan.config import PlanConfig
from tools.plan.measuring.measure import Measurement
from tools.plan.memory import Gpus, Setting
from tools.plan.shares import shares_of_ranks
from tools.plan.step_samples import Bucket, Workload
from tools.plan.step_time import Sent, StepTime
from tools.runs.memory.run_memory import groups_of


@dataclass(frozen=True)
class Run:
    """The sections of a run's config on which a plan depends."""

    model: DenoiserConfig
    engine: EngineConfig
    ema: EmaConfig
    trainer: TrainerConfig
    optimizer: OptimizerConfig

    @cached_property
    def groups(self) -> list[ParameterGroup]:
        """The trainable parameters as the optimizer groups them."""
        return groups_of(self.model.build, self.optimizer)


def device_of(plan: PlanConfig) -> Device | None:
    """Return the device that is planned for; None where this machine has none that is known."""
    if plan.device:
        return by_name(plan.device)
    return by_driver(torch.cuda.get_device_name()) if torch.cuda.is_available() else None


def estimate(
    plan: PlanConfig, run: Run, work: Workload, measured: Measurement | None = None
) -> dict[str, Any]:
    """Return all figures of a plan, as plain values for JSON.

    measured: on the device at hand, for the groups of `work`; None rests times on the data sheet.
    """
    numbers, averages = count_parameters(run.model), len(run.ema.names)
    device, engine = device_of(plan), run.engine
    asked = _settings(plan, run, work, device)
    counted, found, configured = asked.activations, asked.found, asked.configured
    chosen = memory.recommend(found, engine.sequence_parallel) if device else None
    steps, per_step = run.trainer.steps, work.samples_per_step
    with_times = _Times(numbers, plan, run, work, device, measured)
    result: dict[str, Any] = {
        "parameters": numbers,
        "buckets": [_bucket(run.model, work, bucket) for bucket in work.buckets],
        "largest_bucket": _largest(counted, work),
        "step": {"samples": per_step, "flops": figures.step_flops(run.model, work)},
        "run": {
            "steps": steps,
            "samples": steps * per_step,
            "epochs": steps * per_step / max(work.samples, 1),
        },
        "cache_bytes": figures.cache_bytes(work, plan, run.model.text_width),
        "checkpoint_bytes": checkpoint_bytes(run.groups, averages) + checkpoint_bytes(work.own, 0),
        "save_every": run.trainer.save_every,
        "ranks": plan.ranks,
        "device": _device(device) if device else None,
        "settings": [memory.as_figures(each) for each in (*found, *asked.others)],
        "zero_stage": engine.zero_stage,
        "ranks_have": [
            share._asdict()
            for share in shares_of_ranks(
                run.groups, configured.zero_stage, configured.degree, plan.ranks, work, configured.copy
            )
        ],
        "configured": with_times.of(configured),
        "recommended": None,
        "why": "",
    }
    if plan.encode_rate:
        result["encode_gpu_hours"] = work.samples / plan.encode_rate / step_time.HOUR_S
    if chosen is not None:
        result["recommended"] = with_times.of(chosen)
        result["recommended"]["fields"] = memory.as_fields(chosen)
    elif device is not None:
        result["why"] = _missing(found, device)
    return result


class _Settings(NamedTuple):
    """found: with the largest micro-batches that fit.  configured: with those that are asked for.

    activations: of each bucket with the configured policy.  others: as `found`, of the other kind of engine.
    """

    activations: list[Measured]
    found: list[Setting]
    configured: Setting
    others: list[Setting]


def _settings(plan: PlanConfig, run: Run, work: Workload, device: Device | None) -> _Settings:
    """Count activations by policy, and what each stage and number of ranks that share tokens take with them.

    Without a known device nothing is recommended, and the configured policy alone is counted.
    """
    engine, asked, groups = run.engine, run.engine.activation_checkpointing, run.groups
    gpus = Gpus(plan.ranks, plan.ranks_per_node, device.memory if device else 0)
    degrees = memory.degrees(run.model, work, gpus) if device else []
    counted: dict[str, list[Measured]] = {}
    found: list[Setting] = []
    others: list[Setting] = []
    averages = len(run.ema.names)
    auto = replace(engine, zero_stage="auto", micro_batch="auto")
    another = memory.of_another_kind(auto)
    for policy in memory.policies(engine, work.objective) if device else (asked,):
        counted[policy] = memory.activations(run.model, engine, work, policy)
        for degree in sorted({engine.sequence_parallel, *degrees}):
            of_policy = (work, policy, counted[policy], gpus)
            found += memory.possible(groups, auto, *of_policy, degree=degree, averages=averages)
            if another:
                others += memory.possible(groups, another, *of_policy, degree=degree, averages=averages)
    as_asked = (work, asked, counted[asked], gpus)
    same = memory.possible(groups, engine, *as_asked, degree=engine.sequence_parallel, averages=averages)
    return _Settings(counted[asked], found, memory.configured(same, engine, plan.ranks), others)


def _bucket(model: DenoiserConfig, work: Workload, bucket: Bucket) -> dict[str, Any]:
    flops = figures.parts_of(model, bucket, work)
    return {
        "name": bucket.name,
        "latents": list(bucket.shape),
        "samples": bucket.samples,
        "tokens": bucket.tokens,
        "group": bucket.group,
        "of_a_rank": work.rank_share(bucket),
        "share_of_groups": bucket.share,
        "multiply_adds_of_a_sample": forward_macs(model, bucket.shape[1:], work.text_tokens),
        "flops_of_a_sample": sum(flops.values()),
        "flops_by_part": flops,
    }


def _largest(counted: list[Measured], work: Workload) -> str:
    """Name the bucket of which a sample takes most memory."""
    sizes = [each.bytes(1) for each in counted]
    return work.buckets[sizes.index(max(sizes))].name


def _device(device: Device) -> dict[str, Any]:
    return {
        "name": device.name,
        "memory_bytes": device.memory,
        "bf16_tflops": device.tflops,
        "source": device.source,
    }


@dataclass(frozen=True)
class _Times:
    """Traffic and time of the run with a setting, on a known or a measured device."""

    numbers: int
    plan: PlanConfig
    run: Run
    work: Workload
    device: Device | None
    measured: Measurement | None

    def of(self, setting: Setting) -> dict[str, Any]:
        """Return the figures of one setting."""
        work = replace(self.work, data_ranks=self.plan.ranks // setting.degree)
        state = figures.state_traffic(self.run.groups, self.run.engine, work, setting, self.plan)
        shared = figures.shared_calls(self.run.model, self.run.engine, work, setting)
        tokens = traffic.sent(shared, setting.degree)
        sent = Sent(state.sent, tokens, state.overlaps, state.sharers)
        found = {
            **memory.as_figures(setting),
            "collectives": state.calls,
            "collectives_of_shared_tokens": shared,
            "sent_bytes_per_step": sent.state + sent.tokens,
        }
        took = self._step(setting, sent)
        if took is None:
            return found
        saves_s = self.run.trainer.save_every * took.total
        size = checkpoint_bytes(self.run.groups, len(self.run.ema.names))
        return {
            **found,
            "step_s": took.total,
            "step_parts_s": dict(took.parts),
            "basis": took.basis,
            "left_out": list(took.left_out),
            "checkpoint_bytes_per_s": size / saves_s if saves_s and math.isfinite(saves_s) else None,
            **step_time.costs(took.total, self.run.trainer.steps, self.plan, self.device),
        }

    def _step(self, setting: Setting, sent: Sent) -> StepTime | None:
        engine, averages = self.run.engine, len(self.run.ema.names)
        if self.measured is not None:
            asked = engine.activation_checkpointing
            return step_time.as_measured(
                self.measured, self.work, sent, setting, asked, self.plan, self.device
            )
        if self.device is None:
            return None
        flops = figures.step_flops(self.run.model, self.work, setting.policy)
        return step_time.by_data_sheet(flops, self.numbers, averages, sent, setting, self.plan, self.device)


def _missing(found: list[Setting], device: Device) -> str:
    least = memory.smallest(found)
    usable = USABLE * device.memory
    return (
        f"nothing fits a {device.name}: the least is zero_stage={least.zero_stage} with "
        f"activation_checkpointing={least.policy} sequence_parallel={least.degree}, which takes "
        f"{least.bytes / 1e9:.3g} GB of a rank, and {usable / 1e9:.3g} GB are planned with ({USABLE:.0%} of "
        f"{device.memory / 1e9:g}); more ranks take less"
    )
