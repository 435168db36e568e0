"""Which starts drown the data in the network's errors."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Literal

import pytest
import torch

from core.batch import Condition
from core.diffusion.amplification import LARGEST, amplifications
from core.diffusion.generating import sample
from core.diffusion.objectives.noised import Model
from core.diffusion.paths.kinds import make_path
from core.diffusion.paths.path import Path, PathName
from core.diffusion.predictions import Prediction, to_data, to_noise
from core.diffusion.sampling import SamplerConfig, check_start, settle_start, time_grid
from core.draws import Draws
from core.errors import UserError

PATHS: tuple[PathName, ...] = ("rectified_flow", "ddpm_linear", "ddpm_cosine")
KINDS: tuple[Prediction, ...] = ("noise", "data", "v", "flow")


def moved_by_an_error(kind: Prediction, path: Path, t: float, s: float) -> float:
    """Return a DDIM step's move from t to s, relative to its result, when the output errs by 1."""
    levels = torch.tensor([t, s], dtype=torch.float64)
    (a, a_next), (b, b_next) = path.alpha(levels).tolist(), path.sigma(levels).tolist()
    x, zero, one = (torch.tensor(value, dtype=torch.float64) for value in (0.7, 0.0, 1.0))
    ends = [
        a_next * to_data(kind, out, x, a, b) + b_next * to_noise(kind, out, x, a, b) for out in (zero, one)
    ]
    return abs(float(ends[1] - ends[0])) / math.hypot(a_next, b_next)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", PATHS)
def test_it_is_how_far_an_error_moves_the_next_state(name: PathName, kind: Prediction) -> None:
    path = make_path(name)
    times = [0.9, 0.6, 0.31, 0.004]
    expected = [moved_by_an_error(kind, path, t, s) for t, s in pairwise(times)]
    assert amplifications(kind, path, times) == pytest.approx(expected, rel=1e-9)


def test_the_cosine_chain_enlarges_errors_of_the_noise_by_thousands() -> None:
    path = make_path("ddpm_cosine")
    assert (
        max(amplifications("noise", path, time_grid(SamplerConfig(steps=10, grid="even"), path, "v"))) > 3000
    )
    with pytest.raises(
        UserError, match=r"^start=1\.0: expected 0\.999 or lower, start=auto, a threshold, or .*prediction=v"
    ):
        check_start(SamplerConfig(steps=50), path, "noise")
    assert check_start(SamplerConfig(steps=50, start=0.999), path, "noise") == ""
    assert check_start(SamplerConfig(steps=50), path, "v") == ""


@pytest.mark.parametrize(
    ("name", "kind", "steps"),
    [
        ("ddpm_cosine", "noise", 50),
        ("rectified_flow", "noise", 20),
        ("rectified_flow", "score", 50),
        ("ddpm_linear", "noise", 7),
    ],
)
def test_the_start_that_is_chosen_is_the_largest_at_which_no_step_enlarges_errors_much(
    name: PathName, kind: Prediction, steps: int
) -> None:
    path, asked = make_path(name), SamplerConfig(solver="dpmpp_2m", steps=steps, grid="even", start="auto")
    found = settle_start(asked, path, kind)
    assert isinstance(found.start, float)
    assert max(amplifications(kind, path, time_grid(found, path, kind))) <= LARGEST
    assert check_start(found, path, kind) == ""
    for more in (1, 2, 5):
        above = replace(found, start=min(1.0, found.start + more / 1000))
        if above.start != found.start:
            assert max(amplifications(kind, path, time_grid(above, path, kind))) > LARGEST
            with pytest.raises(UserError, match="20-fold is the limit"):
                check_start(above, path, kind)


def test_usual_runs_may_start_from_pure_noise() -> None:
    for name, kind in (("ddpm_linear", "noise"), ("ddpm_linear", "v"), ("rectified_flow", "flow")):
        for steps in (10, 50, 1000):
            assert check_start(SamplerConfig(steps=steps), make_path(name), kind) == ""  # type: ignore[arg-type]


def test_few_steps_are_warned_of() -> None:
    warning = check_start(SamplerConfig(steps=3, grid="even"), make_path("ddpm_linear"), "noise")
    assert warning.startswith("start=1: better 0.")
    assert "43.2-fold" in warning


def test_a_start_without_signal_rules_noise_prediction_out_in_any_number_of_steps() -> None:
    for steps in (1, 2, 50):
        with pytest.raises(UserError, match="without limit"):
            check_start(SamplerConfig(steps=steps), make_path("rectified_flow"), "noise")


@pytest.mark.parametrize("start", [1.0, "auto"])
@pytest.mark.parametrize(("name", "steps"), [("ddpm_linear", 4), ("ddpm_cosine", 20)])
def test_too_few_steps_of_posterior_means_are_told_how_many_suffice(
    name: PathName, steps: int, start: float | Literal["auto"]
) -> None:
    path, config = make_path(name), SamplerConfig(steps=steps, start=start)
    with pytest.raises(UserError, match=rf"^steps={steps}: expected \d+[,:]") as told:
        check_start(config, path, "posterior_mean")
    more = int(str(told.value.expected).replace(",", ":").split(":")[0])
    assert more > steps
    assert check_start(replace(config, steps=more), path, "posterior_mean") == ""


def test_all_steps_of_a_chain_are_told_to_be_fewer_from_a_lower_start() -> None:
    path = make_path("ddpm_cosine")
    with pytest.raises(UserError, match=r"^start=1\.0: expected a lower one with fewer sampler\.steps"):
        check_start(SamplerConfig(steps=1000), path, "noise")
    assert check_start(SamplerConfig(steps=999, start=0.999), path, "noise") == ""


def test_few_steps_of_posterior_means_are_warned_of_with_how_many_suffice() -> None:
    warning = check_start(SamplerConfig(steps=3, grid="even"), make_path("ddpm_linear"), "posterior_mean")
    assert warning.startswith("steps=3: better 48, a threshold, or a run with objective.prediction=v")


def test_a_start_that_holds_signal_is_refused() -> None:
    with pytest.raises(UserError, match=r"^start=0\.5: .*71% of it is signal"):
        check_start(SamplerConfig(start=0.5), make_path("rectified_flow"), "flow")


@pytest.mark.parametrize("name", PATHS)
def test_a_start_has_the_spread_of_data_of_unit_variance(name: PathName) -> None:
    """For data N(0, 1) the exact denoiser is known; the samples must have the variance of the data."""
    path, rows = make_path(name), torch.arange(2000)
    seen: list[torch.Tensor] = []

    def exact(x: torch.Tensor, time: torch.Tensor, condition: Condition) -> torch.Tensor:
        t = (time + 1) / 1000 if path.num_steps else time / 1000
        shape = (-1, 1, 1, 1, 1)
        alpha, sigma = path.alpha(t.double()).view(shape), path.sigma(t.double()).view(shape)
        seen.append(x)
        return ((sigma - alpha) * x / (alpha**2 + sigma**2)).float()  # E[noise - x0 | x_t]

    model: Model = exact
    draws = Draws(3, 0, rows, torch.zeros_like(rows))
    config = SamplerConfig(steps=200, start=0.95)
    x = sample(model, (2000, 1, 1, 1, 1), Condition(), config, path, "flow", draws)
    start = torch.tensor(time_grid(config, path, "v")[0], dtype=torch.float64)
    assert float(seen[0].std()) == pytest.approx(math.hypot(path.alpha(start), path.sigma(start)), rel=0.04)
    assert float(x.std()) == pytest.approx(1.0, rel=0.04)
