"""Tell before queueing whether a training run fits, how long it takes and what it costs.

From the config alone: the network is built over shapes, its activations are counted over shapes, and the
state of training follows by arithmetic for every ZeRO stage and every policy of activation checkpointing. No
GPU and no data are needed: `plan.samples` and `plan.shapes` stand for a cache. Times are the least that the
data sheet allows, unless `plan.mfu` says which share of its peak a run has reached.
"""

from __future__ import annotations

import json
from pathlib import Path

from core import terminal
from core.config.yaml_files import as_yaml
from core.errors import WorkError
from core.files import write_text
from tools.plan.config import Config
from tools.plan.estimate import Run, estimate
from tools.plan.report import lines_of
from tools.plan.step_samples import workload


def plan(config: Config) -> list[str]:
    """Say what `run` would do."""
    where = config.source or f"{config.plan.samples:,} samples of {list(config.plan.shapes)}"
    return [f"plan a run on {config.plan.ranks} GPUs over {where}"]


def run(config: Config) -> None:
    """Print the plan; WorkError where nothing fits the device."""
    work = workload(config.source, config.autoencoder, config.plan, config.data, config.model, config.engine)
    found = estimate(config.plan, Run(config.model, config.engine, config.ema, config.trainer), work)
    if config.format == "json":
        terminal.deliver(json.dumps(found, indent=1))
    else:
        terminal.deliver("\n".join(lines_of(found, config.plan.mfu)))
    if found["device"] and not found["recommended"]:
        raise WorkError(found["why"])
    if config.write and found["recommended"]:
        write_text(Path(config.write), as_yaml(found["recommended"]["fields"]))
