"""The table of a sweep's runs, for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from core.progress import aligned, counted, duration
from core.run.folder import SWEEP
from tools.plan.config import PlanConfig
from tools.sweep import ledger
from tools.sweep.ledger import Result
from tools.sweep.resolving import Resolved, SweepRun, seconds_of

HEAD = ("run", "parameters", "samples", "epochs", "steps", "batch", "lr", "FLOPs", "time", "state")
SHOWN = 5  # names in a line


def lines_of(sweep: Resolved, plan: PlanConfig, found: Mapping[str, Result]) -> list[str]:
    """Lay the runs out with their predicted cost.  found: the rows of those that have ended."""
    runs = sweep.runs
    measured = ledger.rate(found)
    predicted = [seconds_of(run, plan, measured) for run in runs]
    rows = [
        HEAD,
        *(_row(run, seconds, found.get(run.name)) for run, seconds in zip(runs, predicted, strict=True)),
    ]
    total = _total(runs, plan, predicted, measured, found)
    return [*aligned(rows), *total, *_left_out(sweep), *_warnings(runs)]


def _row(run: SweepRun, seconds: float | None, result: Result | None) -> tuple[str, ...]:
    config = run.config
    state = result["state"] if result else "missing"
    return (
        run.name,
        f"{run.parameters:,}",
        f"{run.samples:,.0f}",
        f"{run.samples / max(run.stock, 1):.3g}",
        f"{config.trainer.steps:,}",
        f"{run.samples / config.trainer.steps:.0f}",
        f"{config.optimizer.lr:g}",
        f"{run.flops:.3g}",
        "?" if seconds is None else duration(seconds),
        f"{state}{', held out' if run.planned.held_out else ''}",
    )


def _total(
    runs: Sequence[SweepRun],
    plan: PlanConfig,
    predicted: Sequence[float | None],
    measured: float | None,
    found: Mapping[str, Result],
) -> list[str]:
    flops = sum(run.flops for run in runs)
    left = [run for run in runs if run.name not in found]
    line = f"{counted(len(runs), 'run')}, {flops:.3g} FLOPs; {len(left)} missing, "
    line += f"{sum(run.flops for run in left):.3g} FLOPs"
    times = [
        seconds for run, seconds in zip(runs, predicted, strict=True) if run.name not in found and seconds
    ]
    if not left:
        return [line]
    if not times:
        return [f"{line}; how long is not known: plan.device and plan.mfu give it, or the first run done"]
    hours = sum(times) * left[0].config.processes / 3600
    cost = f", price {hours * plan.price:.4g}" if plan.price else ""
    how = "at the rate of the runs done" if measured else "at the least by the device's data sheet"
    if not measured and plan.mfu:
        how = f"at {plan.mfu:.0%} of the device's peak"
    return [f"{line}, {duration(sum(times))} one after another, {hours:.3g} device hours{cost} ({how})"]


def _left_out(sweep: Resolved) -> list[str]:
    """Name the runs that are planned and not done."""
    reasons = (
        (sweep.short, "fewer steps than sweep.least_steps"),
        (sweep.repeating, "more epochs than sweep.most_epochs"),
    )
    return [f"left out, of {why}: {_some(names)}" for names, why in reasons if names]


def _some(names: Sequence[str]) -> str:
    """Name the first SHOWN, and count the rest."""
    rest = len(names) - SHOWN
    return f"{', '.join(names[:SHOWN])}{f' and {rest} more' if rest > 0 else ''}"


def _warnings(runs: Sequence[SweepRun]) -> list[str]:
    """Say which runs see samples again: the law knows only new ones."""
    again = [run.name for run in runs if run.samples > run.stock > 0]
    if not again:
        return []
    return [
        f"warning: {counted(len(again), 'run')} with more than one epoch, and the law is of new samples: "
        f"{_some(again)}"
    ]


def states(runs: Sequence[SweepRun], found: Mapping[str, Result]) -> list[str]:
    """Name the runs that have failed or diverged, each with its reason."""
    bad = [found[run.name] for run in runs if run.name in found and found[run.name]["state"] != "done"]
    lines = [f"{row['run']} {row['state']}: {row['reason']}" for row in bad]
    return [*lines, f"{counted(len(bad), 'run')} of them kept out of the fit ({SWEEP})"] if bad else []
