"""Ranks that share tokens guide samples as one rank does, whatever the conditions. Run: pytest FILE"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.core.ranks import run_ranks

CASES = 26


@pytest.mark.full
@pytest.mark.multiprocess
def test_two_ranks_guide_as_one(tmp_path: Path) -> None:
    for count in (1, 2):
        run_ranks(count, "-m", "tests.tools.sample.shared_cases", str(tmp_path))
    one, two = (torch.load(tmp_path / f"{count}.pt", weights_only=True) for count in (1, 2))
    assert one.keys() == two.keys()
    assert len(one) == CASES
    apart = {name: float((one[name] - two[name]).abs().max() / one[name].std()) for name in one}
    assert max(apart.values()) < 2e-5, apart
    assert apart["ring"] > 0  # sums in another order: tokens were shared
    assert torch.allclose(one.pop("one by one"), one["text"], atol=1e-5)
    different = torch.stack([each.flatten() for each in one.values()])
    assert float(torch.pdist(different).min()) > 0.05  # each setting does something
