"""Who makes which preview. Run: pytest tests/tools/preview/test_equal_shares.py"""

from __future__ import annotations

import numpy as np
import pytest

from tools.preview.equal_shares import shares


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
def test_ranks_make_equal_batches_and_each_sample_once(ranks: int) -> None:
    order, stretches = np.array([4, 0, 2, 6, 1, 3, 5], np.int64), [range(0, 4), range(4, 7)]
    found = [list(shares(order, stretches, 2, rank, ranks)) for rank in range(ranks)]
    assert len({tuple(len(share.samples) for share in each) for each in found}) == 1
    kept = [int(n) for each in found for share in each for n in share.samples[: share.own]]
    assert sorted(kept) == list(range(7))
    for each in found:
        for share in each:  # of one form, fillers too
            assert {*share.samples.tolist()} <= {4, 0, 2, 6} or {*share.samples.tolist()} <= {1, 3, 5}
