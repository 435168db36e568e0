"""The trainer's own columns of a metrics row: learning rates, gradient norms, whether all was applied.

The columns of another network than the main one begin with its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.engine.engine import StepResult
from core.engine.network import Networks
from core.optim.groups import learning_rate


def learning_rates(
    networks: Networks, results: Mapping[str, StepResult], step_index: int, steps: int
) -> dict[str, float]:
    """Return the rate of each update of a step; for a network that it does not update, that of its schedule.

    results: of the updates of step `step_index` of `steps`.
    """
    return {
        _column(name, "lr"): results[name].lr
        if name in results
        else learning_rate(network.engine.optimizer, step_index, steps)
        for name, network in networks.items()
    }


def outcome(results: Mapping[str, StepResult]) -> dict[str, Any]:
    """Return gradient norms, None for a main network not updated; and whether every update was applied."""
    norms = {_column(name, "grad_norm"): result.grad_norm for name, result in results.items()}
    return {"grad_norm": None, **norms, "applied": all(result.applied for result in results.values())}


def _column(network: str, name: str) -> str:
    return f"{network}_{name}" if network else name
