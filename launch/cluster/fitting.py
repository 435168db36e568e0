"""Refuse to queue a training run that cannot fit its GPUs."""

from __future__ import annotations

from typing import Any

from core.errors import UserError
from core.metrics.devices import by_name
from launch.cluster.config import ClusterConfig


def require_fit(job: str, config: Any, cluster: ClusterConfig) -> list[str]:
    """Return lines on how much of its GPUs' memory a run takes; UserError where it cannot fit.

    This is known for `train` on GPUs that `cluster.gpus_per_node` names, such as h200:8, and whose data
    sheets are in `core.metrics.devices`.
    """
    named = cluster.gpus_per_node.partition(":")[0] if ":" in cluster.gpus_per_node else ""
    if job != "train" or not named:
        return []
    if by_name(named) is None:
        return [
            f"{named} is not among the GPUs that `longtake plan` knows: whether the run fits is not checked"
        ]
    from tools.plan.config import PlanConfig  # imports torch, which other jobs do without
    from tools.plan.estimate import Run, estimate
    from tools.plan.step_samples import workload

    plan = PlanConfig(device=named, ranks=cluster.world_size, ranks_per_node=cluster.tasks_per_node)
    sections = plan, config.data, config.model, config.engine, config.objective
    work = workload(config.source, config.autoencoder, *sections)
    found = estimate(
        plan, Run(config.model, config.engine, config.ema, config.trainer, config.optimizer), work
    )
    configured, best = found["configured"], found["recommended"]
    takes = f"{configured['bytes'] / 1e9:.3g} GB of {found['device']['memory_bytes'] / 1e9:g}"
    if configured["fits"]:
        return [f"{named}: the run takes {takes} on each"]
    way = found["why"]
    if best is not None:
        fields = " ".join(f"engine.{name}={value}" for name, value in best["fields"]["engine"].items())
        way = f"{fields} fits"
    stage, policy = configured["zero_stage"], configured["activation_checkpointing"]
    asked = f"engine.zero_stage={stage} engine.activation_checkpointing={policy}"
    raise UserError(
        f"the run takes {takes} on each {named} with {asked}; {way} (force=true submits it as it is)"
    )
