"""What solvers ask of an output, computed at once, beside its twin: data and noise first, then their sum."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from core.diffusion.estimating import Predicted, estimated
from core.diffusion.paths.kinds import make_path
from core.diffusion.paths.path import Path, PathName
from core.diffusion.predictions import Prediction, level_before, target, to_data, to_noise
from core.diffusion.solvers.levels import Estimate, Level, TensorLevel, levels_at
from tests.core.diffusion.every_path import CHAINS, KINDS, PATHS

X, OUTPUT = torch.randn(2, 3, 2, 1, 2, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
TIMES = (1.0, 0.9, 0.6, 0.31, 0.02)


def before_of(path: Path, kind: Prediction, level: Level) -> tuple[float, float] | None:
    if kind != "posterior_mean":
        return None
    alpha, sigma = level_before(path, torch.tensor([level.t], dtype=torch.float64))
    return float(alpha), float(sigma)


def twin(kind: Prediction, level: Level, before: tuple[float, float] | None) -> Estimate:
    coefficients = (kind, OUTPUT, X, level.alpha, level.sigma, before)
    return Estimate(to_data(*coefficients), to_noise(*coefficients))


def compared(found: Estimate, other: Estimate, there: Level) -> list[tuple[Tensor, Tensor]]:
    return [
        (found.data, other.data),
        (found.noise, other.noise),
        (found.slope, other.slope),
        (found.at(there), other.at(there)),
    ]


@pytest.mark.parametrize(("name", "kind"), itertools.product(PATHS, KINDS))
def test_every_combination_is_that_of_data_and_noise(name: PathName, kind: Prediction) -> None:
    """In float64, wherever the prediction gives data; rounding is that of their sizes."""
    path = make_path(name)
    if kind == "posterior_mean" and name not in CHAINS:
        return
    grid = levels_at(path, [*TIMES, 0.0])
    for here, there in itertools.pairwise(grid):
        if here.alpha == 0 and kind in ("noise", "score"):
            continue
        before = before_of(path, kind, here)
        found, other = estimated(kind, OUTPUT, X, here, before), twin(kind, here, before)
        assert isinstance(found, Predicted)
        size = float(torch.maximum(other.data.abs().max(), other.noise.abs().max())) + 1
        for one, expected in compared(found, other, there):
            assert one.dtype == torch.float64
            torch.testing.assert_close(one, expected, rtol=0, atol=1e-13 * size)
        single = estimated(kind, OUTPUT.float(), X.float(), here, before)
        assert all(one.dtype == torch.float32 for one, _ in compared(single, other, there))


def test_each_is_computed_once_and_the_variance_is_kept() -> None:
    (here,) = levels_at(make_path("ddpm_linear"), [0.5])
    found = estimated("v", OUTPUT, X, here, None, X)
    assert found.data is found.data
    assert found.noise is found.noise
    assert found.variance_fraction is X
    assert estimated("noise", OUTPUT, X, here, None).noise is OUTPUT
    assert estimated("data", OUTPUT, X, here, None).data is OUTPUT
    (here,) = levels_at(make_path("rectified_flow"), [0.3])
    assert estimated("flow", OUTPUT, X, here, None).slope is OUTPUT


def test_levels_of_frames_and_a_start_without_signal_take_data_and_noise() -> None:
    alpha = torch.tensor([0.7, 0.2, 1.0], dtype=torch.float64).reshape(3, 1, 1, 1, 1)
    level = TensorLevel(0.5, alpha, 1 - alpha, torch.zeros(3))
    assert not isinstance(estimated("flow", OUTPUT, X, level, None), Predicted)
    (start,) = levels_at(make_path("rectified_flow"), [1.0])
    found = estimated("noise", OUTPUT, X, start, None)
    assert not isinstance(found, Predicted)
    assert not found.data.isfinite().any()
    assert found.witness is found.data  # so that it is named


def test_an_output_of_the_exact_data_and_noise_gives_them_back() -> None:
    (here, there) = levels_at(make_path("ddpm_cosine"), [0.7, 0.4])
    data, noise = X, OUTPUT
    state = here.alpha * data + here.sigma * noise
    for kind in KINDS:
        if kind == "posterior_mean":
            continue
        found = estimated(kind, target(kind, data, noise, here.alpha, here.sigma), state, here, None)
        torch.testing.assert_close(found.at(there), there.alpha * data + there.sigma * noise)
        torch.testing.assert_close(found.slope, noise - data)
