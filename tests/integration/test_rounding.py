"""Engines in bf16, which round: as far as promised alike. Run: pytest tests/integration/test_rounding.py"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.core.ranks import finish, start_ranks
from tests.integration import rounding_run
from tests.integration.rounding_run import CASES

FULL = [pytest.param(ranks, 20, marks=pytest.mark.full) for ranks in (1, 2, 4)]


@pytest.mark.multiprocess
@pytest.mark.parametrize(("ranks", "steps"), [(2, 4), *FULL])
def test_norms_in_bf16_are_those_of_a_loop_that_rounds_and_sums_as_fsdp2(
    ranks: int, steps: int, tmp_path: Path
) -> None:
    """And within 2 % of those of DeepSpeed, which adds up in bf16; masters begin with the weights' bits."""
    path = tmp_path / "result.pt"
    for code, text in finish(start_ranks(ranks, rounding_run.__file__, str(path), str(steps)), 300):
        assert code == 0, text
    found = torch.load(path, weights_only=True)
    cases = found["cases"]
    assert len(cases) == len(CASES) - (ranks < 4)
    assert {name for name, (_, begins_equal) in cases.items() if not begins_equal} == set()
    for name, (norms, _) in cases.items():
        if "zero" in name:
            continue
        plain = found["plain"][CASES[name].get("micro_batch", 0)]
        assert norms == pytest.approx(plain, rel=1e-6), name
        for stage in range(4):
            assert norms == pytest.approx(cases[f"zero {stage}"][0], rel=0.02), (name, stage)
