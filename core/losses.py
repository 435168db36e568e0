"""The loss interface: an Objective returns per-sample Losses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from core.batch import Batch
from core.draws import Draws


class Losses(NamedTuple):
    """Per-sample results of one micro-batch; the trainer weights, averages and logs them.

    loss: (B,) float32, what is minimised.  time: (B,) the diffusion time of each sample, or None.
    extras: parts worth logging beside the loss, each (B,) float32.
    """

    loss: Tensor
    time: Tensor | None = None
    extras: Mapping[str, Tensor] = {}


class Objective(Protocol):
    """A loss to minimise."""

    def loss(self, model: Any, batch: Batch, draws: Draws) -> Losses:
        """Return the loss of every sample of a micro-batch."""
        ...
