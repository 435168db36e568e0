"""Muon on flat shards of any ZeRO stage, with AdamW for everything that is not a hidden matrix.

A matrix must be whole to be made orthogonal, and ZeRO cuts through matrices. So every matrix has an owner: it
gets the pieces from all ranks, computes the direction and sends the pieces back. Each rank does a fair part
of the work, and what travels is 2 times 2 bytes (bf16) a number. At stage 0 every rank has everything and
computes everything: the plain twin. DeepSpeed's own Muon (0.19) is not used: it clips by the norm of the
update instead of the gradient's, computes a cut matrix once on each rank that has a part, and loads inductor
at every start.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from core.engine.shards import Shard
from core.optim.muon import matrix_shape, newton_schulz, rate_scale

MOMENTUM = "momentum"


class MuonAdamW(torch.optim.AdamW):
    """The update of flat tensors: Muon in groups whose `rule` is "muon", AdamW in all others.

    A group of the first kind has `momentum`; its state is `momentum`, the gradient's moving average.
    """

    def __init__(self, groups: list[dict[str, Any]], **settings: Any) -> None:
        super().__init__(groups, **settings)
        self.grad_scale: Tensor | None = None  # what gradients are to be divided by; AdamW's kernel reads it
        self._exchanges: dict[Tensor, MatrixExchange] = {}

    def share_matrices(
        self, masters: list[Tensor], tables: list[list[Shard]], rank: int, dtype: torch.dtype
    ) -> None:
        """Say where the matrices lie, before the first step, and in which dtype to make them orthogonal.

        tables: the shards of every rank that has a part in the work; `rank` is this one's place among them.
        """
        names = {name for group in self.param_groups if _is_muon(group) for name in group["names"]}
        for index, flat in enumerate(masters):
            parts = [[s for s in shards if s.flat == index and s.name in names] for shards in tables]
            if any(parts):
                self._exchanges[flat] = MatrixExchange(parts, rank, dtype)

    def has_matrices(self, flat: Tensor) -> bool:
        """Return whether Muon updates this flat tensor, of which this rank may hold padding alone."""
        return flat in self._exchanges

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Update every flat tensor that has a gradient (collective: all ranks)."""
        groups = self.param_groups
        self.param_groups = [group for group in groups if not _is_muon(group)]
        if self.param_groups:
            super().step()
        self.param_groups = groups
        for group in filter(_is_muon, groups):
            for flat in group["params"]:
                if flat.grad is not None:
                    self._update(flat, flat.grad, group)

    def _update(self, flat: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        momentum, lr = self.state[flat][MOMENTUM], group["lr"]
        if self.grad_scale is not None:
            gradient.div_(self.grad_scale)
        momentum.lerp_(gradient, 1 - group["momentum"])
        blended = torch.lerp(gradient, momentum, group["momentum"])  # Nesterov
        flat.mul_(1 - lr * group["weight_decay"])
        for shard, direction in self._exchanges[flat].orthogonalise(blended):
            part = flat[shard.offset : shard.offset + direction.numel()]
            part.add_(direction, alpha=-lr * rate_scale(shard.shape))


class MatrixExchange:
    """The owners of one flat tensor's matrices, which make them orthogonal, and what must travel for it.

    tables: every rank's pieces of the matrices, all of one flat tensor.
    """

    def __init__(self, tables: list[list[Shard]], rank: int, dtype: torch.dtype) -> None:
        self._dtype, self._size = dtype, len(tables)
        shapes = {s.name: matrix_shape(s.shape) for shards in tables for s in shards}
        owners = _owners(shapes, self._size)
        self._mine = {name: shape for name, shape in shapes.items() if owners[name] == rank}
        self._outgoing = [[s for s in tables[rank] if owners[s.name] == to] for to in range(self._size)]
        self._incoming = [[s for s in shards if owners[s.name] == rank] for shards in tables]

    def orthogonalise(self, flat: Tensor) -> Iterator[tuple[Shard, Tensor]]:
        """Return this rank's pieces of the directions of the matrices in `flat` (collective)."""
        pieces = [flat[s.offset : s.offset + s.stop - s.start] for part in self._outgoing for s in part]
        received = self._trade(pieces, self._outgoing, self._incoming, flat)
        whole = {name: flat.new_empty(shape, dtype=self._dtype) for name, shape in self._mine.items()}
        arrived = [s for part in self._incoming for s in part]
        for shard, piece in zip(arrived, received, strict=True):
            whole[shard.name].view(-1)[shard.start : shard.stop] = piece
        for name, matrix in whole.items():
            whole[name] = newton_schulz(matrix).contiguous()
        pieces = [whole[s.name].view(-1)[s.start : s.stop] for s in arrived]
        own = [s for part in self._outgoing for s in part]
        return zip(own, self._trade(pieces, self._incoming, self._outgoing, flat), strict=True)

    def _trade(
        self, pieces: list[Tensor], going: list[list[Shard]], coming: list[list[Shard]], like: Tensor
    ) -> Sequence[Tensor]:
        """Send each rank its pieces; return those received, in the order of `coming`."""
        if self._size == 1:
            return [piece.to(self._dtype) for piece in pieces]
        sent = torch.cat([like.new_empty(0, dtype=self._dtype), *(piece.to(self._dtype) for piece in pieces)])
        sizes = [_numbers(part) for part in coming]
        received = sent.new_empty(sum(sizes))
        dist.all_to_all_single(received, sent, sizes, [_numbers(part) for part in going])
        return received.split([_numbers([s]) for part in coming for s in part])


def _owners(shapes: dict[str, tuple[int, int]], ranks: int) -> dict[str, int]:
    """Assign every matrix an owner, the largest first, each to the rank with the least work."""
    work = [0] * ranks
    owners = {}
    for name, shape in sorted(shapes.items(), key=lambda item: (-_cost(item[1]), item[0])):
        owners[name] = work.index(min(work))
        work[owners[name]] += _cost(shape)
    return owners


def _cost(shape: tuple[int, int]) -> int:
    """Count the multiply-adds of one iteration: two products with the matrix, one of the small square."""
    small, large = sorted(shape)
    return small * small * (2 * large + small)


def _numbers(shards: Sequence[Shard]) -> int:
    return sum(s.stop - s.start for s in shards)


def _is_muon(group: dict[str, Any]) -> bool:
    return bool(group.get("rule") == "muon")
