"""Ranks that are in different steps without noticing: found in the reduction every step has anyway."""

from __future__ import annotations

import torch
from torch import Tensor

from core import distributed
from core.distributed import World
from core.errors import WorkError

_MODULUS = 1 << 12  # keeps the sums of squares exact for any number of ranks


class StepAgreement:
    """The total weight of a step's samples over ranks, and a proof that all ranks are in the same step.

    A rank that has left out or repeated a step would go on unnoticed, since its collectives still match those
    of the others. Along with the weights the ranks add up k and k^2 (k: the step): the mean of the squares is
    the square of the mean only if all k are equal.
    """

    def __init__(self, step: int, weight: float, world: World) -> None:
        """Start to sum (collective: all ranks)."""
        self._step, self._k, self._ranks = step, step % _MODULUS, world.size
        numbers = torch.tensor([weight, self._k, self._k**2], dtype=torch.float64, device=world.device)
        self._sum = distributed.PendingSum(numbers)

    def total_weight(self) -> Tensor:
        """The weights' sum, float32, on the device."""
        return self._sum.wait()[0].float()

    def require(self) -> None:
        """WorkError where another rank is in another step; reads the device, so after the update has."""
        _, total, squares = self._sum.wait().tolist()
        if (total, squares) != (self._ranks * self._k, self._ranks * self._k**2):
            raise WorkError(f"rank in step {self._step + 1} while others are in another one; the run ends")
