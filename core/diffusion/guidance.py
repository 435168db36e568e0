"""Classifier-free guidance (Ho and Salimans, arXiv:2207.12598)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal, Protocol

import torch
from torch import Tensor

from core.batch import Condition
from core.diffusion.objective import Model, drop_condition
from core.errors import UserError

GuidanceKind = Literal["cfg", "cfg_zero", "apg"]
Mix = Callable[[Tensor, Tensor], Tensor]
"""Of the outputs with the condition and without it, what is taken instead, in the same prediction."""


class Guided(Protocol):
    def __call__(self, x: Tensor, t: float, time_input: float, mix: Mix | None = None) -> Tensor:
        """Return the guided output.  mix: None mixes linearly, by the scale."""
        ...


@dataclass(frozen=True)
class Guidance:
    """How outputs with and without the condition are mixed.

    kind: cfg: linearly.  cfg_zero: with the output without the condition scaled to fit the other
    (2503.18886).  apg: without the part of their difference that is parallel to the data (2410.02416).
    scale: 1 is the output with the condition.  rescale: share in which the spread of the estimated data is
    brought back to that without guidance (2305.08891, eq. 15-16).  channels: that are guided, from the first
    on, 0 for all; the published DiT guides 3.  limit: of apg, the largest norm of the difference a number of
    the sample, 0 for none.
    """

    kind: GuidanceKind = "cfg"
    scale: float = 1.0
    rescale: float = 0.0
    channels: int = 0
    limit: float = 0.0

    @property
    def is_linear(self) -> bool:
        """Whether it is nothing but the linear mix of all channels."""
        return self.kind == "cfg" and not self.rescale and not self.channels

    def mix(self, given: Tensor, none: Tensor, to_data: Convert, from_data: Convert) -> Tensor:
        """Mix outputs (B, C, T, H, W); each sample by itself.

        to_data, from_data: from an output to the data that it stands for, and back.
        """
        if self.kind == "apg":
            mixed = from_data(self._projected(to_data(given), to_data(none)))
        else:
            if self.kind == "cfg_zero":
                none = none * (_dot(given, none) / _dot(none, none).clamp(min=1e-12))
            mixed = none + self.scale * (given - none)
        if self.rescale:
            data, plain = to_data(mixed), to_data(given)
            spread = plain.std((1, 2, 3, 4), keepdim=True) / data.std((1, 2, 3, 4), keepdim=True)
            mixed = from_data(data * (self.rescale * spread + 1 - self.rescale))
        if self.channels:
            mixed = torch.cat([mixed[:, : self.channels], given[:, self.channels :]], dim=1)
        return mixed

    def _projected(self, given: Tensor, none: Tensor) -> Tensor:
        """Return the data with the scaled difference that is orthogonal to them."""
        difference = given - none
        if self.limit:
            norm = _dot(difference, difference).sqrt() / difference[0].numel() ** 0.5
            difference = difference * (self.limit / norm.clamp(min=1e-12)).clamp(max=1)
        parallel = given * (_dot(difference, given) / _dot(given, given).clamp(min=1e-12))
        return given + (self.scale - 1) * (difference - parallel)


Convert = Callable[[Tensor], Tensor]


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the product of each sample with its own, (B, 1, 1, 1, 1)."""
    return (a * b).sum((1, 2, 3, 4), keepdim=True)


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

    def guided(x: Tensor, t: float, time_input: float, mix: Mix | None = None) -> Tensor:
        time = torch.full((len(x),), time_input, dtype=torch.float32, device=x.device)
        if scale == 1 or not interval[0] <= t <= interval[1]:
            return model(x, time, condition).float()
        output = model(torch.cat([x, x]), torch.cat([time, time]), pair).float()
        given, none = output.chunk(2)
        channels = x.shape[1]
        halves = given[:, :channels], none[:, :channels]
        mixed = mix(*halves) if mix else halves[1] + scale * (halves[0] - halves[1])
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
