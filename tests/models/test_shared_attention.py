"""Attention over ranks equals attention on one. Run: pytest tests/models/test_shared_attention.py"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.core.ranks import run_ranks

PROGRAM = str(Path(__file__).with_name("shared_attention_run.py"))


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    "ranks", [2, pytest.param(3, marks=pytest.mark.full), pytest.param(4, marks=pytest.mark.full)]
)
def test_heads_and_ring_equal_one_rank_for_any_number_of_tokens(ranks: int) -> None:
    printed = run_ranks(ranks, PROGRAM)[0].splitlines()
    assert "trades=4" in printed  # queries, keys and values in one, the result in another, both back again
    lines = [line for line in printed if line.startswith("tokens=")]
    assert len(lines) == 30
    for line in lines:
        assert float(line.split()[-1]) < (1e-12 if "float64" in line else 2e-2), line
