"""Predict before queueing whether a training run fits, how long it takes and what it costs.

The config alone is enough: the network is built from shapes without values, its activations are counted, and
the training state is calculated for every ZeRO stage and every policy of activation checkpointing. No
GPU and no data are needed: `plan.samples` and `plan.shapes` stand for a cache. Times are the least that the
data sheet allows, unless `plan.mfu` says which share of its peak a run has reached, or `action=measure` times
micro-batches on the device at hand.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from core import terminal
from core.config.yaml_files import as_yaml
from core.errors import UserError, WorkError
from core.files import write_text
from core.progress import say
from data.order.buckets import GroupConfig
from tools.plan.config import Config
from tools.plan.estimate import Run, device_of, estimate
from tools.plan.measuring.measure import measure
from tools.plan.measuring.measured_report import lines_of_measurement, measurement_figures
from tools.plan.measuring.stopwatch import Sections
from tools.plan.report import lines_of
from tools.plan.step_samples import Workload, workload
from tools.train.config import DataConfig


def plan(config: Config) -> list[str]:
    """Say what `run` would do."""
    where = config.source or f"{config.plan.samples:,} samples of {list(config.plan.shapes)}"
    return [f"plan a run on {config.plan.ranks} GPUs over {where}"]


def run(config: Config) -> None:
    """Print the plan; WorkError where nothing fits the device."""
    if config.action != "show" and Path(config.file).exists() and not config.overwrite:
        raise UserError("file", config.file, "a file that is not there yet, or overwrite=true")

    def samples(data: DataConfig) -> Workload:
        sections = config.plan, data, config.model, config.engine, config.objective
        return workload(config.source, config.autoencoder, *sections)

    configured = work = samples(config.data)
    measured, device = None, device_of(config.plan)
    if config.action == "measure":
        sections = Sections(config.model, config.engine, config.ema, config.optimizer)
        measured = measure(sections, work, config.data, config.plan.device)
        work = samples(replace(config.data, **group_fields(measured.choice.data)))
    sections_of_run = Run(config.model, config.engine, config.ema, config.trainer, config.optimizer)
    found = estimate(config.plan, sections_of_run, work, measured)
    if config.format == "json":
        more = {"measured": measurement_figures(measured, work)} if measured else {}
        terminal.deliver(json.dumps({**found, **more}, indent=1))
    else:
        asked = config.data.rank_multiple
        lines = lines_of_measurement(measured, configured, work, asked, device) if measured else []
        terminal.deliver("\n".join([*lines, *lines_of(found)]))
    if found["device"] and not found["recommended"]:
        raise WorkError(found["why"])
    if measured:
        _write(config.file, {"data": group_fields(measured.choice.data)})
    elif config.action == "write":
        if not found["recommended"]:
            raise UserError("plan.device", config.plan.device, "a device to recommend an engine for")
        _write(config.file, found["recommended"]["fields"])


def group_fields(data: GroupConfig) -> dict[str, Any]:
    """Return the fields of the section `data` that a measurement settles."""
    names = ("rank_multiple", "group_cost", "cost_fixed", "cost_linear", "cost_quadratic")
    return {name: getattr(data, name) for name in names}


def _write(file: str, fields: Mapping[str, Any]) -> None:
    write_text(Path(file), as_yaml(fields))
    say(f"wrote {file}, which `longtake train` takes after the config that was planned")
