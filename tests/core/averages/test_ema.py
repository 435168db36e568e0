"""Run: pytest tests/core/averages/test_ema.py"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from core.averages.ema import Ema, EmaConfig, remaining, require_updates, start_share, weak_averages
from core.averages.power_ema import gamma_of_width
from core.checkpoint.weights import load_weights
from core.distributed import ranks
from core.errors import UserError
from core.faults import failpoints
from tests.core.toy_run import toy_trainer


def test_several_averages_follow_at_once() -> None:
    masters = [torch.zeros(3)]
    ema = Ema(EmaConfig(decay=0.9, extra_decays=(0.5,), warmup=0.0), masters)
    for update in (1, 2, 3):
        masters[0].fill_(float(update))
        ema.update(masters, update)
    for name, decay in (("0.9", 0.9), ("0.5", 0.5)):
        expected = 0.0
        for value in (1.0, 2.0, 3.0):
            expected = decay * expected + (1 - decay) * value
        assert ema.averages[name][0].tolist() == pytest.approx([expected] * 3)


def test_warm_up_lets_the_start_fade() -> None:
    assert remaining(0.9999, 1, 1, 10.0) == pytest.approx(1 / 11)
    assert remaining(0.9999, 10**6, 1, 10.0) == 0.9999


@pytest.mark.parametrize(
    ("decay", "warmup"), [(0.9, 0.0), (0.99, 10.0), (0.9999, 3.0), (1.0, 0.0), (0.0, 0.0)]
)
def test_the_share_of_the_start_is_the_product_of_what_every_update_leaves(
    decay: float, warmup: float
) -> None:
    expected = 1.0
    for n in range(1, 61):
        expected *= remaining(decay, n, 1, warmup)
    assert start_share(decay, 60, warmup) == pytest.approx(expected)


def test_averages_that_cannot_be_touched_are_refused_and_weak_ones_are_told() -> None:
    with pytest.raises(UserError, match=r"^every=100: expected at most trainer.steps=60"):
        require_updates(EmaConfig(every=100), 60)
    with pytest.raises(UserError, match=r"^snapshot_every=1000: expected at most trainer.steps=60"):
        require_updates(EmaConfig(power_widths=(0.1,)), 60)
    require_updates(EmaConfig(every=60), 60)
    (weak,) = weak_averages(EmaConfig(warmup=0.0, extra_decays=(0.5,)), 60)
    assert weak.startswith("ema.decay=0.9999: 99% of the average is still the random start after 60 steps")
    assert weak_averages(EmaConfig(), 60) == []


def test_touching_every_few_updates_keeps_the_same_share_of_the_past() -> None:
    single = 1.0
    for n in range(17, 25):
        single *= remaining(0.99, n, 1, 10.0)
    assert remaining(0.99, 24, 8, 10.0) == pytest.approx(single)


def test_every_eighth_update_is_close_to_the_direct_average() -> None:
    torch.manual_seed(0)
    weights = torch.zeros(1000)
    direct = Ema(EmaConfig(decay=0.999), [weights])
    rare = Ema(EmaConfig(decay=0.999, every=8), [weights])
    for update in range(1, 2001):
        weights += 0.01 * torch.randn(1000) + 0.001
        direct.update([weights], update)
        rare.update([weights], update)
    a, b = direct.averages["0.999"][0], rare.averages["0.999"][0]
    assert (a - b).norm() / a.norm() < 0.01


def test_a_decay_given_twice_is_refused() -> None:
    with pytest.raises(UserError, match="extra_decays"):
        EmaConfig(decay=0.9, extra_decays=(0.9,))


@pytest.mark.parametrize("every", [1, 4])
def test_power_averages_are_beside_the_others(every: int) -> None:
    """A profile is a weighted mean of what was seen: each update keeps (1 - 1/t)^(gamma + 1) of the past."""
    weights = torch.zeros(1)
    ema = Ema(EmaConfig(decay=0.9, power_widths=(0.05, 0.1), every=every), [weights])
    expected, gamma = 0.0, gamma_of_width(0.1)
    for update in range(1, 25):
        weights.fill_(update**0.5)
        ema.update([weights], update)
        if update % every == 0:
            kept = (1 - every / update) ** (gamma + 1)
            expected = kept * expected + (1 - kept) * update**0.5
    assert list(ema.averages) == ["0.9", "sigma-0.05", "sigma-0.1"]
    assert float(ema.averages["sigma-0.1"][0]) == pytest.approx(expected, rel=1e-5)
    assert float(ema.averages["sigma-0.05"][0]) > expected  # shorter, so nearer to the present
    assert ema.record(26) == {
        "ema": ["0.9", "sigma-0.05", "sigma-0.1"],
        "ema_widths": {"sigma-0.05": 0.05, "sigma-0.1": 0.1},
        "ema_updates": 26 if every == 1 else 24,
    }


def test_a_skipped_update_leaves_the_averages_alone(tmp_path: Path) -> None:
    world, fields = ranks.start("cpu", 60), {"schedule": "constant", "power_widths": (0.1,)}
    toy_trainer(tmp_path / "two", world, steps=2, **fields).fit()
    failpoints.arm("step.loss@step=3:nan")
    toy_trainer(tmp_path / "three", world, steps=3, **fields).fit()
    failpoints.arm("")
    for which in ("raw", "0.9", "0.5", "sigma-0.1"):
        one, other = (load_weights(tmp_path / run, which) for run in ("two", "three"))
        assert all(torch.equal(one[n], other[n]) for n in one if n != "calls"), which


@pytest.mark.parametrize("widths", [(0.0,), (0.3,), (0.1, 0.1)])
def test_impossible_widths_are_refused(widths: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match="power_widths"):
        EmaConfig(power_widths=widths)
