"""Turn planned runs into configs of `train`: steps from exact FLOPs, batch and learning rate by rule."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from core.config.building import over
from core.config.loading import from_dict, to_dict
from core.config.settings import setting
from core.errors import UserError
from core.metrics.devices import Device
from core.run.folder import RUNS
from models.denoisers.network import count_parameters
from tools.plan import memory
from tools.plan.config import PlanConfig
from tools.plan.estimate import device_of
from tools.plan.figures import step_flops
from tools.plan.step_samples import Workload, workload
from tools.runs.memory.run_memory import groups_of
from tools.sweep.plans.isoflop import IsoflopConfig
from tools.sweep.plans.planned import Planned, SweepConfig
from tools.train.config import Config as TrainConfig

DIGITS = 6  # of a learning rate that a rule gives


@dataclass(frozen=True, kw_only=True)
class RulesConfig:
    """How batch, learning rate and warm-up of a run follow from its size and budget.

    The sections `model`, `data` and `optimizer` hold those of the reference network; with all powers 0 every
    run has its batch and learning rate.
    """

    batch_power: float = setting(
        0.0, "groups grow as (budget / batch_budget)^batch_power, to multiples of data.rank_multiple"
    )
    batch_budget: float = setting(0.0, "budget at which data.group_size is right", unit="FLOPs", low=0)
    lr_size_power: float = setting(
        0.0, "the learning rate grows as (N / N of the section model)^lr_size_power; such as -0.33"
    )
    lr_batch_power: float = setting(
        0.0, "the learning rate grows as (group / data.group_size)^lr_batch_power; such as 0.5"
    )
    warmup_share: float = setting(
        0.0, "warm-up as a share of a run's steps; 0 takes optimizer.warmup_steps", low=0, high=0.9
    )

    def __post_init__(self) -> None:
        if self.batch_power and not self.batch_budget:
            raise UserError("batch_budget", self.batch_budget, "above 0 with batch_power")


@dataclass(frozen=True)
class SweepRun:
    """A run of a sweep.  parameters: N.  samples: D, that it is trained on.  flops: of its training, exact.

    stock: samples of the dataset, so that samples / stock are its epochs.
    """

    planned: Planned
    config: TrainConfig
    parameters: int
    samples: float
    flops: float
    stock: int

    @property
    def name(self) -> str:
        return self.planned.name

    @property
    def budget(self) -> float:
        """The budget that it was planned for; its own FLOPs where there was none."""
        return self.planned.budget or self.flops


class Resolved(NamedTuple):
    """The runs of a sweep, and the names of those that it plans but leaves out.

    short: of fewer steps than `sweep.least_steps`.  repeating: of more epochs than `sweep.most_epochs`.
    """

    runs: list[SweepRun]
    short: list[str]
    repeating: list[str]


def base_of(config: Any) -> TrainConfig:
    """Return the config of `train` that a sweep's extends."""
    return TrainConfig(
        **{field.name: getattr(config, field.name) for field in dataclasses.fields(TrainConfig)}
    )


def resolve(
    base: TrainConfig, sweep: SweepConfig, rules: RulesConfig, plan: PlanConfig, output: str
) -> Resolved:
    """Return the runs with their configs, in the order in which they are done.

    UserError where one cannot fit its device, its budget gives less than one step, or none is left to fit.
    """
    runs = [_resolved(planned, base, rules, plan, output) for planned in sweep.runs()]
    found = _without_left_out(runs, sweep) if isinstance(sweep, IsoflopConfig) else Resolved(runs, [], [])
    if (device := device_of(plan)) is not None:  # counting takes seconds a network, so only for the largest
        largest = max(found.runs, key=lambda run: (run.parameters, run.config.data.group_size))
        _require_fit(largest, plan, device)
    return found


def _without_left_out(runs: list[SweepRun], sweep: IsoflopConfig) -> Resolved:
    """Tell the runs apart from those that the sweep leaves out; what is held out stays."""
    kept: list[SweepRun] = []
    short, repeating = [], []
    for run in runs:
        if run.planned.held_out:
            kept.append(run)
        elif run.config.trainer.steps < sweep.least_steps:
            short.append(run.name)
        elif 0 < sweep.most_epochs < run.samples / max(run.stock, 1):
            repeating.append(run.name)
        else:
            kept.append(run)
    if all(run.planned.held_out for run in kept):
        field = "sweep.most_epochs" if repeating else "sweep.least_steps"
        value = sweep.most_epochs if repeating else sweep.least_steps
        why = f"{len(short)} have too few steps, {len(repeating)} see too few samples too often"
        raise UserError(field, f"{value:g}", f"so that a run is left to fit: {why}")
    return Resolved(kept, short, repeating)


def _resolved(
    planned: Planned, base: TrainConfig, rules: RulesConfig, plan: PlanConfig, output: str
) -> SweepRun:
    changed = from_dict(TrainConfig, over(to_dict(base), planned.changes))
    changed = _with_batch(changed, rules, planned.budget)
    work = _workload(changed, plan)
    per_step = step_flops(changed.model, work)
    steps = changed.trainer.steps
    if planned.budget:
        if planned.budget < per_step:
            raise UserError(
                "sweep.budgets" if not planned.held_out else "sweep.held_out",
                f"{planned.budget:g}",
                f"at least {per_step:.3g}, the FLOPs of one step of {planned.name}",
            )
        steps = round(planned.budget / per_step)
    parameters = count_parameters(changed.model)
    config = _with_steps(
        _with_rate(changed, base, rules, parameters), rules, steps, f"{output}/{RUNS}/{planned.name}"
    )
    return SweepRun(
        planned, config, parameters, steps * work.samples_per_step, steps * per_step, work.samples
    )


def _with_batch(config: TrainConfig, rules: RulesConfig, budget: float) -> TrainConfig:
    if not rules.batch_power or not budget:
        return config
    data = config.data
    if data.group_cost:
        raise UserError("rules.batch_power", rules.batch_power, "0 with data.group_cost")
    wanted = data.group_size * (budget / rules.batch_budget) ** rules.batch_power
    size = max(1, round(wanted / data.rank_multiple)) * data.rank_multiple
    return replace(config, data=replace(data, group_size=size))


def _with_rate(config: TrainConfig, base: TrainConfig, rules: RulesConfig, parameters: int) -> TrainConfig:
    factor = 1.0
    if rules.lr_size_power:
        factor *= (parameters / count_parameters(base.model)) ** rules.lr_size_power
    if rules.lr_batch_power:
        factor *= (config.data.group_size / base.data.group_size) ** rules.lr_batch_power
    rate = float(f"{config.optimizer.lr * factor:.{DIGITS}g}")
    return replace(config, optimizer=replace(config.optimizer, lr=rate))


def _with_steps(config: TrainConfig, rules: RulesConfig, steps: int, output: str) -> TrainConfig:
    """Return the config of a run of so many steps, which validates once, at its end."""
    warmup = round(rules.warmup_share * steps) if rules.warmup_share else config.optimizer.warmup_steps
    return replace(
        config,
        output=output,
        overwrite=False,
        optimizer=replace(config.optimizer, warmup_steps=warmup),
        trainer=replace(config.trainer, steps=steps),
        validation=replace(config.validation, every=steps),
    )


def _workload(config: TrainConfig, plan: PlanConfig) -> Workload:
    plan = replace(plan, ranks=config.processes)
    sections = plan, config.data, config.model, config.engine, config.objective
    return workload(config.source, config.autoencoder, *sections)


def _require_fit(run: SweepRun, plan: PlanConfig, device: Device) -> None:
    """Raise UserError unless a run, the largest of a sweep, fits its device."""
    config, engine = run.config, run.config.engine
    work, policy = _workload(config, plan), engine.activation_checkpointing
    found = memory.possible(
        groups_of(config.model.build, config.optimizer),
        engine,
        work,
        policy,
        memory.activations(config.model, engine, work, policy),
        memory.Gpus(config.processes, plan.ranks_per_node, device.memory),
        degree=engine.sequence_parallel,
        averages=len(config.ema.names),
    )
    configured = memory.configured(found, engine, config.processes)
    if not configured.fits:
        takes, has = configured.bytes / 1e9, device.memory / 1e9
        raise UserError(
            f"{run.name} takes {takes:.3g} GB of each {device.name} ({has:g} GB): more `processes`, "
            "engine.zero_stage or engine.activation_checkpointing, or no such run"
        )


def seconds_of(run: SweepRun, plan: PlanConfig, measured: float | None) -> float | None:
    """Predict how long a run takes, by a measured rate in FLOP/s, else by the device; None for neither."""
    if measured:
        return run.flops / measured
    device = device_of(plan)
    if device is None:
        return None
    return run.flops / (device.tflops * 1e12 * (plan.mfu or 1.0) * run.config.processes)


def most_epochs(runs: Sequence[SweepRun]) -> float:
    """Return how often the run that repeats its samples most sees them."""
    return max(run.samples / max(run.stock, 1) for run in runs)
