"""Run one: pytest tests/core/averages/test_power_ema.py -k reconstruct"""

from __future__ import annotations

import numpy as np
import pytest

from core.averages.power_ema import (
    Snapshot,
    decay,
    gamma_of_width,
    reconstruction_weights,
    width_of_gamma,
)


@pytest.mark.parametrize(("width", "gamma"), [(0.05, 16.97), (0.10, 6.94)])
def test_widths_of_the_paper(width: float, gamma: float) -> None:
    """The paper tracks gamma 16.97 and 6.94, the exponents of 5 % and 10 %."""
    assert gamma_of_width(width) == pytest.approx(gamma, abs=5e-3)
    assert width_of_gamma(gamma_of_width(width)) == pytest.approx(width, rel=1e-9)


def test_width_is_the_standard_deviation_of_the_profile() -> None:
    tau = (np.arange(200_000) + 0.5) / 200_000
    gamma = gamma_of_width(0.08)
    profile = (gamma + 1) * tau**gamma
    mean = (profile * tau).mean()
    assert np.sqrt((profile * (tau - mean) ** 2).mean()) == pytest.approx(0.08, rel=1e-6)


@pytest.mark.parametrize("width", [0, 0.3, -1])
def test_impossible_width_is_refused(width: float) -> None:
    with pytest.raises(ValueError, match="sigma_rel"):
        gamma_of_width(width)


def track(weights: np.ndarray, gamma: float, every: int = 1) -> np.ndarray:
    """Return all averages of a trajectory (steps, n) by the plain recurrence."""
    average, out = np.zeros(weights.shape[1]), []
    for step, now in enumerate(weights, start=1):
        if step % every == 0:
            kept = decay(gamma, step, every)
            average = kept * average + (1 - kept) * now
        out.append(average)
    return np.array(out)


def trajectory(steps: int = 4000) -> np.ndarray:
    """Return weights as a training run moves them: a drift that slows down, a slow wander, and step noise."""
    rng = np.random.default_rng(0)
    drift = np.log1p(np.arange(steps))[:, None] * rng.normal(size=64)
    wander = np.cumsum(rng.normal(size=(steps, 64)), axis=0) * 0.03
    return drift + wander + 0.3 * rng.normal(size=(steps, 64))


@pytest.mark.parametrize("width", [0.04, 0.06, 0.08, 0.12, 0.15])
@pytest.mark.parametrize("end", [2500, 4000])
def test_reconstructs_a_directly_tracked_average(width: float, end: int) -> None:
    """Two tracked profiles, a snapshot every 1/16 run, give any width within 1 %, at any stored step."""
    weights = trajectory()
    tracked = {gamma: track(weights, gamma) for gamma in (gamma_of_width(0.05), gamma_of_width(0.10))}
    snapshots = [Snapshot(g, step) for g in tracked for step in range(250, end + 1, 250)]
    target = Snapshot(gamma_of_width(width), end)
    factors = reconstruction_weights(snapshots, target)
    rebuilt = sum(f * tracked[s.gamma][s.step - 1] for f, s in zip(factors, snapshots, strict=True))
    direct = track(weights, target.gamma)[end - 1]
    assert factors.sum() == pytest.approx(1, abs=0.01)
    assert np.linalg.norm(rebuilt - direct) <= 0.01 * np.linalg.norm(direct)


def test_a_tracked_profile_is_found_among_its_own_snapshots() -> None:
    snapshots = [Snapshot(g, step) for g in (6.94, 16.97) for step in (100, 200, 300)]
    np.testing.assert_allclose(reconstruction_weights(snapshots, snapshots[-1]), [0] * 5 + [1], atol=1e-6)


def test_updating_every_eight_steps_stays_within_a_percent() -> None:
    weights = trajectory()
    gamma = gamma_of_width(0.10)
    every_step, every_eighth = track(weights, gamma)[-1], track(weights, gamma, every=8)[-1]
    assert np.linalg.norm(every_eighth - every_step) <= 0.01 * np.linalg.norm(every_step)


def test_snapshots_from_the_future_are_refused() -> None:
    with pytest.raises(ValueError, match="up to step 100"):
        reconstruction_weights([Snapshot(7.0, 200)], Snapshot(9.0, 100))
