"""Draw and noise latents in one pass over them: what a kernel is given for that, and what it gives.

`Objective.noised` on the latents of `tools/train/objective.py` is the plain twin, in some hundred operations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Protocol

from torch import Tensor


@dataclass(frozen=True)
class Ingredients:
    """What noisy latents are made from; all on one device.

    moments: (B, M, C, T, H, W) of the encoder, mean and log-variance, or the mean alone.
    mean, std: (C, 1) or (C, T) float32, by which latents are normalised.
    posterior, noise: `Draws.stream` of these purposes; the first is None where moments are means.
    levels: (4, B, G) float32: alpha and sigma, and the factors of data and noise in the target; G is 1, or T
    where frames have levels of their own.
    frame_mask: (B, T) float32, 1 where a frame is given; None where none can be.
    still, is_picture: (B, C, 1, H, W) float32, and (B,) bool where it is to stand in the place of the last
    `unit` frames; None where there are none.
    """

    moments: Tensor
    mean: Tensor
    std: Tensor
    posterior: Tensor | None
    noise: Tensor
    levels: Tensor
    frame_mask: Tensor | None = None
    still: Tensor | None = None
    is_picture: Tensor | None = None
    unit: int = 1


class Mixed(NamedTuple):
    """x_t, target: (B, C, T, H, W).  x0, noise: likewise, float32; None unless all was asked for.

    frame_latents: x0 where it is given and 0 elsewhere; None without a mask.
    """

    x_t: Tensor
    target: Tensor
    x0: Tensor | None
    noise: Tensor | None
    frame_latents: Tensor | None


class Mixer(Protocol):
    """Mixes latents in one pass over the moments."""

    def mix(self, given: Ingredients, *, keeps_all: bool) -> Mixed:
        """Return noisy latents.

        keeps_all: whether x0 and the noise are wanted too, and everything in float32. Otherwise x_t and
        frame_latents come in the dtype that the network computes in, which would be rounded to it next; the
        target is always float32, as the loss is.
        """
        ...
