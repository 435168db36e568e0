"""What an objective hands to the trainer."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True)
class Losses:
    """Per-sample results of one micro-batch; the trainer weights, averages and logs them.

    loss: (B,) float32, what is minimised.  time: (B,) the diffusion time of each sample, or None.
    extras: parts worth logging beside the loss, each (B,) float32.
    """

    loss: Tensor
    time: Tensor | None = None
    extras: dict[str, Tensor] = field(default_factory=dict)
