"""Bounds of the estimated data, each sample by itself."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from core.batch import Condition
from core.diffusion.generating import sample
from core.diffusion.paths.config import ScheduleConfig, path_record
from core.diffusion.paths.kinds import make_path
from core.diffusion.sampling import SamplerConfig, check_start
from core.diffusion.thresholds import ThresholdConfig, bounded
from core.draws import Draws
from core.errors import UserError

DATA = 3 * torch.randn(5, 2, 1, 6, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def made(kind: Any, **fields: float) -> torch.Tensor:
    return bounded(ThresholdConfig(kind=kind, **fields), DATA)


def test_static_cuts_off() -> None:
    assert torch.equal(made("static", limit=2.0), DATA.clamp(-2, 2))


def test_dynamic_is_that_of_the_paper() -> None:
    found = made("dynamic", limit=1.0, share=0.9)
    for sample_, one in zip(DATA, found, strict=True):
        s = max(float(torch.quantile(sample_.abs().flatten(), 0.9)), 1.0)
        torch.testing.assert_close(one, sample_.clamp(-s, s) / s)
    assert float(found.abs().max()) == pytest.approx(1.0)
    torch.testing.assert_close(made("dynamic", limit=100.0), DATA)


def test_deviation_scales_samples_that_spread_too_far_alone() -> None:
    mixed = torch.cat([DATA[:2], DATA[2:] / 10])
    found = bounded(ThresholdConfig(kind="deviation", limit=1.5), mixed)
    for one in found[:2]:
        assert float(one.std(correction=0)) == pytest.approx(1.5)
    assert torch.equal(found[2:], mixed[2:])


@pytest.mark.parametrize("kind", ["static", "dynamic", "deviation"])
def test_a_sample_does_not_depend_on_others(kind: Any) -> None:
    config = ThresholdConfig(kind=kind, limit=1.0)
    assert torch.equal(bounded(config, DATA)[1:3], bounded(config, DATA[1:3]))
    assert bounded(config, DATA.float()).dtype == torch.float32


def test_a_bounded_estimate_may_start_where_errors_are_enlarged() -> None:
    path = make_path("ddpm_cosine")
    plain = SamplerConfig(steps=20, grid="even")
    with pytest.raises(UserError, match="a threshold"):
        check_start(plain, path, "noise")
    config = SamplerConfig(steps=20, grid="even", threshold=ThresholdConfig(kind="static", limit=2.0))
    assert check_start(config, path, "noise") == ""
    ids = torch.arange(3)
    found = sample(
        lambda x, t, c: x + 0.3, (3, 2, 1, 4, 4), Condition(), config, path, "noise", Draws(0, 0, ids, ids)
    )
    assert found.isfinite().all()
    assert float(found.abs().max()) <= 2.0  # the last step gives the estimate itself
    without = make_path(path_record("ddpm_cosine", ScheduleConfig(zero_terminal_snr=True)))
    with pytest.raises(UserError, match="without limit"):
        check_start(config, without, "noise")


def test_a_share_without_its_kind_is_refused() -> None:
    with pytest.raises(UserError, match=r"share=0\.9: expected 0\.995 with kind=static"):
        ThresholdConfig(kind="static", share=0.9)
