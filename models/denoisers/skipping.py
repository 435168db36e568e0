"""A network without some of its blocks, as guidance away from a worse output needs it."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from torch import Tensor, nn

from core.batch import Condition
from core.errors import UserError
from models.denoisers.network import Denoiser


def numbers_of(model: Denoiser, blocks: Sequence[nn.Module]) -> tuple[int, ...]:
    """Return the numbers, among all `blocks` of a network, of those that it computes now."""
    places = {id(block): number for number, block in enumerate(blocks)}
    return tuple(places[id(block)] for block in model.blocks)


class WithoutBlocks:
    """A denoiser whose other blocks alone are computed; it shares all weights with the whole one.

    numbers: of the blocks that are left out, from 0.  UserError (`skip_blocks`) where there are no such.
    """

    def __init__(self, model: Denoiser, numbers: Collection[int]) -> None:
        if unknown := [number for number in numbers if number >= len(model.blocks)]:
            raise UserError(
                "skip_blocks", unknown[0], f"0 to {len(model.blocks) - 1}, the blocks of the network"
            )
        if len(set(numbers)) == len(model.blocks):
            raise UserError("skip_blocks", sorted(numbers), "fewer than all blocks of the network")
        self._model, self._whole = model, model.blocks
        self._rest = nn.ModuleList(block for n, block in enumerate(model.blocks) if n not in set(numbers))

    def __call__(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        self._model.blocks = self._rest
        try:
            return self._model(x, time, condition)
        finally:
            self._model.blocks = self._whole
