"""Kinds of mixing the output with the condition and the one that it is guided away from."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from core.diffusion.guidance.branches import Contrast, linear

GuidanceKind = Literal["cfg", "cfg_zero", "apg"]
Convert = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Compared:
    """Outputs (B, C, T, H, W), the given one first, and how they are compared; each sample by itself.

    to_data, from_data: from an output to the data that it stands for, and back.  advance: of a difference of
    data, the same with its momentum; None without.  limit: of its norm, 0 for none.
    """

    outputs: Sequence[Tensor]
    contrasts: Sequence[Contrast]
    to_data: Convert
    from_data: Convert
    advance: Convert | None
    limit: float

    @property
    def two(self) -> tuple[Tensor, Tensor, float]:
        """The given output and the other, of kinds that compare two and no more, and the scale."""
        (only,) = self.contrasts
        return self.outputs[0], self.outputs[only.low], only.scale


def cfg(compared: Compared) -> Tensor:
    """Mix linearly (2207.12598)."""
    return linear(compared.outputs, compared.contrasts)


def cfg_zero(compared: Compared) -> Tensor:
    """Mix linearly, with the output without the condition scaled to fit the other (2503.18886)."""
    given, low, scale = compared.two
    low = low * (_dot(given, low) / _dot(low, low).clamp(min=1e-12))
    return low + scale * (given - low)


def apg(compared: Compared) -> Tensor:
    """Mix without the part of the difference that is parallel to the data (2410.02416)."""
    given, low, scale = compared.two
    data = compared.to_data(given)
    difference = data - compared.to_data(low)
    difference = compared.advance(difference) if compared.advance else difference
    if compared.limit:
        norm = _dot(difference, difference).sqrt() / difference[0].numel() ** 0.5
        difference = difference * (compared.limit / norm.clamp(min=1e-12)).clamp(max=1)
    across = difference - data * (_dot(difference, data) / _dot(data, data).clamp(min=1e-12))
    return compared.from_data(data + (scale - 1) * across)


KINDS: dict[GuidanceKind, Callable[[Compared], Tensor]] = {
    "cfg": cfg,
    "cfg_zero": cfg_zero,
    "apg": apg,
}
"""The kinds by name; a new one is a function above, its name, and its place here."""


@dataclass(frozen=True)
class Guidance:
    """How outputs with and without the condition are mixed.

    kind: of the table above; all but cfg compare two outputs and no more.
    rescale: share in which the spread of the estimated data is brought back to that without guidance
    (2305.08891, eq. 15-16).  channels: that are guided, from the first on, 0 for all; the published DiT
    guides 3.  limit: of apg, the largest norm of the difference a number of the sample, 0 for none.
    """

    kind: GuidanceKind = "cfg"
    rescale: float = 0.0
    channels: int = 0
    limit: float = 0.0

    @property
    def is_linear(self) -> bool:
        """Whether the guided output is the plain linear combination of the outputs, in all channels."""
        return self.kind == "cfg" and not self.rescale and not self.channels

    def mix(
        self,
        outputs: Sequence[Tensor],
        contrasts: Sequence[Contrast],
        to_data: Convert,
        from_data: Convert,
        advance: Convert | None = None,
    ) -> Tensor:
        """Mix outputs as `Compared` has them."""
        given = outputs[0]
        mixed = KINDS[self.kind](Compared(outputs, contrasts, to_data, from_data, advance, self.limit))
        if self.rescale:
            data, plain = to_data(mixed), to_data(given)
            spread = plain.std((1, 2, 3, 4), keepdim=True) / data.std((1, 2, 3, 4), keepdim=True)
            mixed = from_data(data * (self.rescale * spread + 1 - self.rescale))
        if self.channels:
            mixed = torch.cat([mixed[:, : self.channels], given[:, self.channels :]], dim=1)
        return mixed


class Momentum:
    """The running sum of differences, d + share * (that of the step before) (2410.02416, algorithm 1).

    It advances once a step, whatever the evaluations in it: those at the time where a step begins keep their
    sum, the last of them for good, and those inside a step do not. A step that does not follow the last one
    begins anew.
    """

    def __init__(self, share: float, times: Sequence[float]) -> None:
        self.share, self._falling = share, [-time for time in times]
        self._step = -1
        self._before: Tensor | None = None
        self._now: Tensor | None = None

    def advance(self, difference: Tensor, t: float) -> Tensor:
        """Return the sum for an evaluation at time t."""
        place = bisect_left(self._falling, -t)
        begins = place < len(self._falling) and self._falling[place] == -t
        step = place if begins else place - 1
        if step != self._step:
            self._before = self._now if step == self._step + 1 else None
            self._step, self._now = step, None
        total = difference if self._before is None else difference + self.share * self._before
        if begins:
            self._now = total
        return total


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the product of each sample with its own, (B, 1, 1, 1, 1)."""
    return (a * b).sum((1, 2, 3, 4), keepdim=True)
