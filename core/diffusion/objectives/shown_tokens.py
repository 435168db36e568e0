"""Keep the tokens of one of a network's blocks beside its prediction, for the alignment loss."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from core.batch import Condition


class Showing:
    """A network that is called for its prediction alone; the tokens of a block are kept.

    tokens: (B, T, H, W, D) of the last call.
    """

    tokens: Tensor

    def __init__(self, model: Any, block: int) -> None:
        self._model, self._block = model, block

    def __call__(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        output: Tensor
        output, self.tokens = self._model(x, time, condition, hidden=self._block)
        return output
