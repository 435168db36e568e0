"""Derivatives of a network whose tokens ranks share: every rank goes back through its own tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from core.batch import Condition
from core.diffusion.objectives.noised import Model
from core.distributed.sequence import SequenceGroup


@dataclass(frozen=True, eq=False)
class Derivable:
    """The output of a call on one rank, and the input that it can be derived by."""

    x: Tensor
    output: Tensor
    sequence: SequenceGroup

    @classmethod
    def of(
        cls, model: Model, x: Tensor, time: Tensor, condition: Condition, sequence: SequenceGroup
    ) -> Derivable:
        """Call a network and keep its graph (collective: the group)."""
        with torch.enable_grad():
            leaf = x.detach().requires_grad_()
            return cls(leaf, model(leaf, time, condition), sequence)

    def product(self, vector: Tensor) -> Tensor:
        """Return `vector` times the derivative of the output by the input (collective: the group).

        A rank's input acts through its own tokens alone, so that the sum over ranks is the whole. Gathering
        tokens multiplies gradients by the number of ranks, for the mean that training takes of them.
        """
        (own,) = torch.autograd.grad(self.output, self.x, vector, retain_graph=True)
        dist.all_reduce(own, group=self.sequence.group)
        return own / self.sequence.size


class Derived(torch.autograd.Function):
    """`call` of an input, which gives a Derivable; `product` of that and a vector is its derivative."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, call: Callable[[Tensor], Derivable], product: Any) -> Tensor:
        ctx.found, ctx.product = call(x), product
        return ctx.found.output.detach()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return ctx.product(ctx.found, gradients[0]), None, None
