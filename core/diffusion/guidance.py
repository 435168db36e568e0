"""Classifier-free guidance (Ho and Salimans, arXiv:2207.12598)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields

import torch
from torch import Tensor

from core.batch import Condition
from core.diffusion.objective import Model, drop_condition
from core.errors import UserError

Guided = Callable[[Tensor, float, float], Tensor]


def classifier_free(
    model: Model, condition: Condition, scale: float, interval: tuple[float, float] = (0.0, 1.0)
) -> Guided:
    """Return guided(x, t, time_input) = none + scale (conditional - none), in any linear prediction.

    Both halves run as one batch of 2B. With scale = 1, or where t lies outside `interval` (limited interval,
    Kynkäänniemi et al., arXiv:2404.07724), it is one forward of B with the condition. A learned variance, the
    upper half of the channels, is the conditional one's.
    """
    if scale != 1 and condition.label is None and condition.text is None:
        raise UserError(
            "guidance", scale, "1, since nothing is given (no label, no text) that could be dropped"
        )

    def guided(x: Tensor, t: float, time_input: float) -> Tensor:
        time = torch.full((len(x),), time_input, dtype=torch.float32, device=x.device)
        if scale == 1 or not interval[0] <= t <= interval[1]:
            return model(x, time, condition).float()
        output = model(torch.cat([x, x]), torch.cat([time, time]), pair).float()
        given, none = output.chunk(2)
        channels = x.shape[1]
        mixed = none[:, :channels] + scale * (given[:, :channels] - none[:, :channels])
        return torch.cat([mixed, given[:, channels:]], dim=1)

    pair = _with_null(condition)
    return guided


def _with_null(condition: Condition) -> Condition:
    """Return the samples twice: with their label and text, then without; given frames stay in both."""
    some = next((part for f in fields(condition) if (part := getattr(condition, f.name)) is not None), None)
    if some is None:
        return condition
    null = drop_condition(condition, torch.ones(len(some), dtype=torch.bool, device=some.device))
    parts = {f.name: (getattr(condition, f.name), getattr(null, f.name)) for f in fields(condition)}
    if condition.text_length is None and null.text_length is not None and condition.text is not None:
        full = torch.full_like(null.text_length, condition.text.shape[1])
        parts["text_length"] = (full, null.text_length)
    return Condition(**{name: None if a is None else torch.cat([a, b]) for name, (a, b) in parts.items()})
