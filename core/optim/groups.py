"""Settings of the optimizer: parameter groups by tag, the learning rate as a pure function of the step.

Tags are attributes that a network sets on its parameters: `no_decay` on embeddings, `hidden` on the matrices
and kernels of its blocks, which Muon may take.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from core.config.settings import setting
from core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101) or Muon, and the learning-rate schedule."""

    name: Literal["adamw", "muon"] = setting(
        "adamw",
        "update rule; muon updates the matrices and kernels of the blocks, with AdamW's lr, and AdamW "
        "updates the rest",
    )
    lr: float = setting(1e-4, "learning rate after warm-up", low=0.0)
    betas: tuple[float, float] = setting((0.9, 0.999), "decay rates of the first and second moment")
    momentum: float = setting(0.95, "muon: decay of the gradient average", low=0.0)
    eps: float = setting(1e-8, "constant added to the root of the second moment", low=0.0)
    weight_decay: float = setting(
        0.0, "decoupled weight decay of matrices; norms, biases and embeddings have none", low=0.0
    )
    warmup_steps: int = setting(0, "linear rise of the learning rate from 0", unit="steps", low=0)
    schedule: Literal["constant", "cosine"] = setting(
        "constant", "schedule of the learning rate after warm-up"
    )
    final_lr_fraction: float = setting(
        0.0, "learning rate at the end of the cosine schedule, as a fraction of lr", low=0.0, high=1.0
    )

    def __post_init__(self) -> None:
        if not all(0.0 <= beta < 1.0 for beta in self.betas):
            raise UserError("betas", self.betas, "two numbers in [0, 1)")
        if not self.momentum < 1.0:
            raise UserError("momentum", self.momentum, "a number in [0, 1)")

    @property
    def moments(self) -> tuple[str, ...]:
        """Return the names of the moments: `momentum` of Muon's matrices, the other two of the rest."""
        return ("exp_avg", "exp_avg_sq", *(("momentum",) if self.name == "muon" else ()))


def require_rise(config: OptimizerConfig, steps: int) -> None:
    """Raise UserError where a run of `steps` steps ends before its warm-up does."""
    if config.warmup_steps >= steps:
        expected = (
            f"below trainer.steps={steps}, or the learning rate never gets to optimizer.lr={config.lr:g}"
        )
        raise UserError("warmup_steps", config.warmup_steps, expected)


def learning_rate(config: OptimizerConfig, step_index: int, steps: int) -> float:
    """Return the learning rate of step `step_index` in a run of `steps` steps."""
    if step_index < config.warmup_steps:
        return config.lr * (step_index + 1) / config.warmup_steps
    if config.schedule == "constant":
        return config.lr
    progress = min(1.0, (step_index - config.warmup_steps) / max(1, steps - config.warmup_steps))
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.lr * (config.final_lr_fraction + (1.0 - config.final_lr_fraction) * cosine)


def parameter_groups(model: nn.Module, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Group the trainable parameters in the model's order: for Muon, for AdamW with and without weight decay.

    Muon takes matrices, and kernels of convolutions, with the tag `parameter.hidden = True`. A parameter goes
    without decay when it has fewer than two axes (norms, biases) or carries the tag
    `parameter.no_decay = True`.
    """
    decay = config.weight_decay
    groups: dict[str, dict[str, Any]] = {
        "muon": {
            "params": [],
            "names": [],
            "weight_decay": decay,
            "rule": "muon",
            "momentum": config.momentum,
        },
        "decay": {"params": [], "names": [], "weight_decay": decay},
        "no_decay": {"params": [], "names": [], "weight_decay": 0.0},
    }
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            group = groups[_group_of(parameter, config)]
            group["params"].append(parameter)
            group["names"].append(name)
    found = [group for group in groups.values() if group["params"]]
    if not found:
        raise UserError("the model has no trainable parameter")
    if config.name == "muon" and not groups["muon"]["params"]:
        raise UserError("name", "muon", "adamw, since the model has no hidden matrix")
    return found


def _group_of(parameter: nn.Parameter, config: OptimizerConfig) -> str:
    if parameter.ndim < 2 or getattr(parameter, "no_decay", False):
        return "no_decay"
    is_hidden = getattr(parameter, "hidden", False)
    return "muon" if config.name == "muon" and is_hidden else "decay"
