"""Skipping ahead in torch's generator. Run: pytest tests/core/first_values/test_mersenne_twister.py"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from core.first_values.mersenne_twister import skipped


def generator(state: Tensor) -> torch.Generator:
    made = torch.Generator()
    made.set_state(state)
    return made


# Around the ends of blocks of 624 words, and around the count from which words are skipped and not drawn.
@pytest.mark.parametrize("count", [0, 1, 623, 624, 625, 62_399, 62_400, 62_401, 62_833, 1_234_567])
@pytest.mark.parametrize("before", [0, 1, 624, 1000])
def test_a_skip_is_as_many_draws(count: int, before: int) -> None:
    start = torch.Generator().manual_seed(7)
    torch.empty(before).uniform_(generator=start)
    drawn = generator(start.get_state())
    torch.empty(count).uniform_(generator=drawn)
    ahead = generator(skipped(start.get_state(), count))
    for _ in range(2):  # within a block, and past it
        assert torch.equal(torch.rand(500, generator=drawn), torch.rand(500, generator=ahead))
    assert torch.equal(torch.randn(17, generator=drawn), torch.randn(17, generator=ahead))


def test_long_skips_add_up() -> None:
    """Two of 3.5 thousand million words are one of 7, which nobody wants to draw here."""
    state = torch.Generator().manual_seed(1).get_state()
    half = skipped(skipped(state, 3_500_000_001), 3_499_999_999)
    once = skipped(state, 7_000_000_000)
    assert torch.equal(torch.rand(9, generator=generator(half)), torch.rand(9, generator=generator(once)))
