"""The optimizer of FSDP2: flat fp32 masters of this rank's rows, which are the parameters' own memory.

FSDP2 keeps each parameter's rows as a tensor of its own, padded to those of the first rank. Here these lie in
one flat tensor a group, so that an update, an average or a copy for a checkpoint is a few passes over memory
and not hundreds, and gradients go into a flat tensor beside it as soon as ranks have added them up.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from core.engine.flat_adamw import Accumulate, FlatAdamW, norm_of
from core.engine.fsdp2.mesh import Sharing
from core.engine.fsdp2.places import Place
from core.engine.shards import Cut, Shard


class Sharded(FlatAdamW):
    """AdamW, or Muon, of this rank's rows of the parameters of a network that FSDP2 has sharded.

    shards: the ranges of parameters, in the order of the masters.  cuts: those of any rank.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        places: Mapping[str, Place],
        sharing: Sharing,
        *,
        gradient_clipping: float,
        **settings: Any,
    ) -> None:
        self._sharing, self.shards, self.cuts = sharing, list[Shard](), list[Cut]()
        masters, gradients, accumulators = [], [], []
        for number, group in enumerate(groups):
            own = {name: places[name] for name in group["names"]}
            like = next(iter(own.values())).local
            master = like.new_zeros(sum(place.padded for place in own.values()))
            gradient, offset = torch.zeros_like(master), 0
            for name, place in own.items():
                place.move(master[offset : offset + place.padded])
                part = gradient[offset : offset + place.rows.numel()].view(place.rows)
                accumulators.append(_collect(place.parameter, part))
                self.cuts.append(Cut(name, place.shape, number, 0, place.padded))
                if place.start < place.stop:
                    self.shards.append(Shard(name, place.shape, place.start, place.stop, number, offset))
                offset += place.padded
            masters.append(master.detach().requires_grad_())
            gradients.append(gradient)
        super().__init__(
            groups, masters, gradients, accumulators, gradient_clipping=gradient_clipping, **settings
        )

    def forget(self) -> None:
        """Forget the gradients of this step."""
        for accumulator in self.accumulators:
            accumulator.forget()

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Clip by the norm over all ranks and update, or skip (collective: all ranks).

        Squares are added up in the order of ranks: replicas, whose groups a library may each reduce in an
        order of its own, have norms of the same bits, and so stay equal. Each rank's is reduced beside zeros,
        which in any order leaves its bits.
        """
        self.finish()
        norm = norm_of(self.gradients)
        if self._sharing.size > 1:
            squares = norm.new_zeros(self._sharing.size)
            squares[self._sharing.rank] = norm.square()
            dist.all_reduce(squares, group=self._sharing.group)
            norm = squares.sum().sqrt()
        self.update(float(norm))


def _collect(parameter: nn.Parameter, gradient: Tensor) -> Accumulate:
    """Add the parameter's gradients up in `gradient`, as soon as ranks have added them up."""
    accumulate = Accumulate(gradient)

    def collect(parameter: nn.Parameter) -> None:
        assert parameter.grad is not None
        accumulate.add(parameter.grad._local_tensor)  # type: ignore[attr-defined]
        parameter.grad = None

    parameter.register_post_accumulate_grad_hook(collect)
    return accumulate
