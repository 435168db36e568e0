"""Attention over ranks equals attention on one. Run: pytest tests/models/attention/test_several_ranks.py"""

from __future__ import annotations

import pytest

from tests.core.ranks import run_ranks
from tests.models.attention import shared_attention_run
from tests.models.attention.shared_attention_run import MANY, TRAFFIC

PROGRAM = shared_attention_run.__file__


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    "ranks", [2, pytest.param(3, marks=pytest.mark.full), pytest.param(4, marks=pytest.mark.full)]
)
def test_sharing_tokens_equals_one_rank_for_any_number_of_tokens(ranks: int) -> None:
    """One start of the ranks serves all: attention alone, its traffic, and whole networks."""
    printed = run_ranks(ranks, PROGRAM)[0].splitlines()
    lines = [line for line in printed if line.startswith("tokens=")]
    assert len(lines) == 72
    for line in lines:
        tolerance = {"torch.float64": 1e-12, "torch.float32": 2e-6}.get(line.split()[3])
        half = 2e-2 if "ring=None" in line else 1e-2  # that of the backend; a ring's sums are in float32
        assert float(line.split()[-1]) < (tolerance or half), line
    networks = [line for line in printed if line.startswith("network=")]
    assert len(networks) == 10
    for line in networks:
        assert float(line.split()[-1]) < 1e-5, line
    modes = [line for line in printed if line.startswith("recompute=")]
    assert len(modes) == 3 * len(networks)
    assert all(line.endswith(" True") for line in modes), modes
    assert_traffic(ranks, [line for line in printed if line.startswith("traffic=")])
    (memory,) = (int(line.partition("=")[2]) for line in printed if line.startswith("memory="))
    assert memory < 3 * 4 * MANY**2 / 4  # a quarter of the scores of a single hop


def assert_traffic(ranks: int, lines: list[str]) -> None:
    """Check the bytes of 2 samples of TRAFFIC tokens and `ranks` heads of 4 numbers, a share per rank.

    By heads: queries, keys and values in one transfer, the result in another, then their gradients back; all
    but 1 / ranks of a share is for others. A ring: keys and values to every other rank, twice, and their
    gradients, of every other rank's, back in float32.
    """
    share = 2 * TRAFFIC // ranks * ranks * 4
    trades = [2 * part * share * (ranks - 1) // ranks for part in (3, 1, 1, 3)]
    block, gradients = 2 * 2 * share, 2 * 4 * share
    backward = [block, *[block, gradients] * (ranks - 2), gradients]
    around = [block] * (ranks - 1) + backward
    assert lines == [
        f"traffic=heads {trades}",
        f"traffic=math {around}",
        f"traffic=sdpa_flash {around}",
    ]
