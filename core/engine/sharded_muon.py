"""Muon on flat shards of any ZeRO stage, with AdamW for everything that is not a hidden matrix.

A matrix must be whole to be orthogonalised, and ZeRO cuts through matrices. So every matrix has an owner,
which gathers the pieces from all ranks, computes the update and sends the pieces back. The work is balanced
over ranks, and 2 times 2 bytes (bf16) are communicated per number. At stage 0 every rank computes everything:
the plain twin. DeepSpeed's own Muon (0.19) is not used: it clips by the norm of the update instead of the
gradient's, computes a cut matrix once on each rank that has a part, and loads inductor at every start.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from core.distributed.ranks import Group
from core.engine.shards import Cut, Shard
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
        self,
        masters: list[Tensor],
        shards: list[Shard],
        cuts: list[Cut],
        rank: int,
        size: int,
        dtype: torch.dtype,
        group: Group = None,
    ) -> None:
        """Say where the matrices lie, before the first step, and in which dtype to make them orthogonal.

        shards: what `rank` holds, of `size` ranks that have a part in the work.  cuts: what any of them does.
        group: in which they communicate.
        """
        names = {name for group in self.param_groups if _is_muon(group) for name in group["names"]}
        for index, flat in enumerate(masters):
            matrices = [cut for cut in cuts if cut.flat == index and cut.name in names]
            if matrices:
                held = [s for s in shards if s.flat == index and s.name in names]
                self._exchanges[flat] = MatrixExchange(matrices, held, rank, size, dtype, group)

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

    cuts: of the matrices, all of one flat tensor; the same, in the same order, on all ranks.  held: this
    rank's pieces of them.
    """

    def __init__(
        self,
        cuts: Sequence[Cut],
        held: Sequence[Shard],
        rank: int,
        size: int,
        dtype: torch.dtype,
        group: Group = None,
    ) -> None:
        self._dtype, self._size, self._group = dtype, size, group
        owners = owners_of({cut.name: matrix_shape(cut.shape) for cut in cuts}, size)
        places = {cut.name: place for place, cut in enumerate(cuts)}
        self._own = sorted(held, key=lambda shard: (owners[shard.name], places[shard.name]))
        self._mine = [cut for cut in cuts if owners[cut.name] == rank]
        # As the senders sort what they have: by rank, and of a rank by the order of the matrices.
        pieces = [
            (sender, start, stop, cut.name) for cut in self._mine for sender, start, stop in cut.pieces()
        ]
        self._arriving = sorted(pieces, key=lambda piece: piece[0])
        self._going_sizes, self._coming_sizes = [0] * size, [0] * size
        for shard in self._own:
            self._going_sizes[owners[shard.name]] += shard.stop - shard.start
        for sender, start, stop, _ in self._arriving:
            self._coming_sizes[sender] += stop - start

    def orthogonalise(self, flat: Tensor) -> Iterator[tuple[Shard, Tensor]]:
        """Return this rank's pieces of the directions of the matrices in `flat` (collective)."""
        pieces = [flat[s.offset : s.offset + s.stop - s.start] for s in self._own]
        sizes = [stop - start for _, start, stop, _ in self._arriving]
        received = self._trade(pieces, self._going_sizes, self._coming_sizes, sizes, flat)
        whole = {cut.name: flat.new_empty(matrix_shape(cut.shape), dtype=self._dtype) for cut in self._mine}
        for (_, start, stop, name), piece in zip(self._arriving, received, strict=True):
            whole[name].view(-1)[start:stop] = piece
        for name, matrix in whole.items():
            whole[name] = newton_schulz(matrix).contiguous()
        pieces = [whole[name].view(-1)[start:stop] for _, start, stop, name in self._arriving]
        sizes = [s.stop - s.start for s in self._own]
        directions = self._trade(pieces, self._coming_sizes, self._going_sizes, sizes, flat)
        return zip(self._own, directions, strict=True)

    def _trade(
        self, pieces: list[Tensor], going: list[int], coming: list[int], sizes: list[int], like: Tensor
    ) -> Sequence[Tensor]:
        """Send each rank its pieces; return those received.

        going, coming: numbers for and from each rank.  sizes: of the pieces that come.
        """
        if self._size == 1:
            return [piece.to(self._dtype) for piece in pieces]
        sent = torch.cat([like.new_empty(0, dtype=self._dtype), *(piece.to(self._dtype) for piece in pieces)])
        received = sent.new_empty(sum(coming))
        dist.all_to_all_single(received, sent, coming, going, group=self._group)
        return received.split(sizes)


def owners_of(shapes: Mapping[str, tuple[int, int]], ranks: int) -> dict[str, int]:
    """Assign every matrix an owner, the largest first, each to the rank with the least work."""
    work = [(0, rank) for rank in range(ranks)]  # a heap: of ranks with as much work the first
    owners = {}
    for name, shape in sorted(shapes.items(), key=lambda item: (-_cost(item[1]), item[0])):
        done, owners[name] = work[0]
        heapq.heapreplace(work, (done + _cost(shape), owners[name]))
    return owners


def _cost(shape: tuple[int, int]) -> int:
    """Count the multiply-adds of one iteration: two products with the matrix, one of the small square."""
    small, large = sorted(shape)
    return small * small * (2 * large + small)


def _is_muon(group: dict[str, Any]) -> bool:
    return bool(group.get("rule") == "muon")
