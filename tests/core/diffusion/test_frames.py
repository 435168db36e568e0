"""Levels of single frames: one level as a special case, clean frames, patterns, and steps that lag."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from core.batch import Condition
from core.diffusion.frames.lagging import solve_frames
from core.diffusion.frames.training_levels import FrameTimes, GivenConfig
from core.diffusion.generating import sample
from core.diffusion.guidance.config import GuideConfig
from core.diffusion.objective import Objective
from core.diffusion.objectives.config import ObjectiveConfig
from core.diffusion.paths.kinds import make_path
from core.diffusion.predictions import Prediction, target, to_data, to_noise
from core.diffusion.sampling import SamplerConfig
from core.diffusion.solvers.kinds import KINDS, SolverName, require_for_frames
from core.diffusion.solvers.levels import ChurnConfig, CorrectorConfig, Estimate, Level
from core.diffusion.solvers.stepwise import Course
from core.diffusion.thresholds import ThresholdConfig
from core.draws import Draws
from core.errors import UserError
from tests.core.diffusion.every_path import PATHS

SHAPE = (2, 4, 2, 2)  # C, T, H, W


def draws(count: int, step: int = 0) -> Draws:
    ids = torch.arange(count)
    return Draws(0, step, ids, ids)


def data(count: int) -> Tensor:
    return torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(1))


def half(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
    return 0.5 * x


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("options", [{"weighting": "min_snr"}, {"prediction": "data", "loss_space": "edm"}])
def test_equal_levels_give_the_loss_of_one_level(path: str, options: dict[str, str]) -> None:
    config = ObjectiveConfig(path=path, **{"prediction": "edm", **options})  # type: ignore[arg-type]
    one, many = Objective(config), Objective(config, frames_per_level=2)
    x0, noise = data(3), torch.randn(3, *SHAPE)
    t = torch.tensor([0.003, 0.4, 0.99])
    a = one.loss_of(half, one.noised_at(x0, Condition(), t, noise))
    b = many.loss_of(half, many.noised_at(x0, Condition(), t[:, None].expand(3, 2), noise))
    torch.testing.assert_close(b.loss, a.loss, rtol=1e-6, atol=1e-6)
    assert b.time is not None
    torch.testing.assert_close(b.time, t)


@pytest.mark.parametrize("prediction", [p for p in get_args(Prediction) if p != "posterior_mean"])
def test_frames_at_time_0_are_copied_and_count_in_no_loss(prediction: Prediction) -> None:
    config = ObjectiveConfig(prediction=prediction, loss_space="noise" if prediction == "score" else "")
    if prediction == "v":
        config = ObjectiveConfig(path="ddpm_linear", prediction="v")
    objective, x0 = Objective(config, frames_per_level=1), data(3)
    t = torch.tensor([[0.0, 0.5, 0.0, 0.25]]).expand(3, 4)
    noised = objective.noised_at(x0, Condition(), t, torch.randn(3, *SHAPE))
    assert torch.equal(noised.x_t[:, :, [0, 2]], x0[:, :, [0, 2]])
    assert torch.equal(noised.time_input, objective.path.time_input(t))
    wrong = torch.zeros(1, 1, 4, 1, 1)
    wrong[:, :, [0, 2]] = 1e3

    def model(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        return noised.target + wrong

    assert float(objective.loss_of(model, noised).loss.max()) == 0


@pytest.mark.parametrize("kind", get_args(FrameTimes))
def test_times_of_frames_are_keyed_by_the_sample_and_are_of_their_kind(kind: FrameTimes) -> None:
    config = ObjectiveConfig(frame_times=kind, given_frames=0)
    objective, x0 = Objective(config, frames_per_level=2), data(400)
    whole = objective.noised(x0, Condition(), draws(400))
    alone = objective.noised(x0[7:8], Condition(), Draws(0, 0, torch.tensor([7]), torch.tensor([7])))
    assert torch.equal(whole.time[7:8], alone.time)
    assert torch.equal(whole.x_t[7:8], alone.x_t)
    assert torch.equal(whole.time[:, 0], whole.time[:, 1])  # a group has one level
    first, last = whole.time[:, 0], whole.time[:, -1]
    if kind == "shared":
        plain = Objective(ObjectiveConfig(given_frames=0)).noised(x0, Condition(), draws(400))
        assert torch.equal(whole.time, plain.time[:, None].expand(400, 4))
        torch.testing.assert_close(whole.x_t, plain.x_t)
    elif kind == "independent":
        assert abs(float(torch.corrcoef(torch.stack([first, last]))[0, 1])) < 0.15
    elif kind == "monotone":
        assert bool((first < last).all())
    else:
        assert float((first == 0).float().mean()) == pytest.approx(0.5, abs=0.1)
        assert bool((last > 0).all())


def patterns(given: GivenConfig, unit: int = 1, share: float = 1.0) -> tuple[list[list[float]], list[float]]:
    count = 3000
    objective = Objective(
        ObjectiveConfig(given=given, given_frames=share), frame_condition=True, frames_per_level=unit
    )
    noised = objective.noised(data(count), Condition(), draws(count))
    mask = noised.condition.frame_mask
    assert mask is not None
    assert torch.equal(noised.time == 0, mask > 0)
    assert noised.condition.frame_latents is not None
    kinds, counts = mask.unique(dim=0, return_counts=True)
    return kinds.tolist(), (counts / count).tolist()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (GivenConfig(), [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]]),
        (GivenConfig(first=0, last=1), [[0, 0, 0, 1], [0, 0, 1, 1], [0, 1, 1, 1]]),
        (GivenConfig(first=0, ends=1), [[1, 0, 0, 1]]),
        (GivenConfig(first=0, every=1, n=2), [[1, 0, 1, 0]]),
    ],
)
def test_patterns_of_given_frames(given: GivenConfig, expected: list[list[float]]) -> None:
    kinds, shares = patterns(given)
    assert kinds == expected
    assert shares == pytest.approx([1 / len(expected)] * len(expected), abs=0.03)


def test_patterns_take_their_shares_and_groups_are_given_whole() -> None:
    kinds, shares = patterns(GivenConfig(first=1, ends=3), share=0.5)
    found = dict(zip(map(tuple, kinds), shares, strict=True))
    assert found[0, 0, 0, 0] == pytest.approx(0.5, abs=0.03)
    assert found[1, 0, 0, 1] == pytest.approx(0.375, abs=0.03)
    kinds, _ = patterns(GivenConfig(first=0, random=1), unit=2)
    assert kinds == [[0, 0, 0, 0], [0, 0, 1, 1], [1, 1, 0, 0]]  # never all


@pytest.mark.parametrize("unit", [0, 2])
def test_a_last_frame_given_alone_is_the_still_and_draws_stay(unit: int) -> None:
    given = GivenConfig(first=1, last=1, ends=1, every=1, n=3, random=1)
    config, x0 = ObjectiveConfig(given=given, given_frames=0.9), data(2000)
    objective = Objective(config, frame_condition=True, frames_per_level=unit)
    still = torch.full((2000, SHAPE[0], 1, *SHAPE[2:]), 7.0)
    plain, found = (objective.noised(x0, Condition(), draws(2000), s) for s in (None, still))
    before, after = plain.condition.frame_latents, found.condition.frame_latents
    mask = found.condition.frame_mask
    assert before is not None
    assert after is not None
    assert mask is not None
    assert torch.equal(mask, plain.condition.frame_mask)  # type: ignore[arg-type]
    assert torch.equal(found.time, plain.time)
    size = unit or 1
    is_still = (after[:, :, -size:] == 7).all(1).all(1).all(1).all(1)
    alone = (mask[:, -1] > 0) & (mask[:, -1 - size] == 0)
    assert not bool((is_still & ~alone).any())
    assert 0 < int(is_still.sum()) < int(alone.sum())  # `every` and `random` give the clip's own
    assert torch.equal(after[:, :, :-size], before[:, :, :-size])
    assert torch.equal(after[~is_still], before[~is_still])
    assert torch.equal(found.x0[is_still][:, :, -size:], after[is_still][:, :, -size:])
    only = Objective(
        replace(config, given=GivenConfig(first=0, ends=1), given_frames=1), frame_condition=True
    )
    ended = only.noised(x0, Condition(), draws(2000), still).condition.frame_latents
    assert ended is not None
    assert bool((ended[:, :, -1] == 7).all())
    assert torch.equal(ended[:, :, 0], x0[:, :, 0])


class Levels:
    """The exact network for frames of data N(0, 1 / 4), which notes the times that it is told."""

    def __init__(self, kind: Prediction, path: str = "rectified_flow") -> None:
        self.kind, self.path, self.told = kind, make_path(path), list[Tensor]()  # type: ignore[arg-type]

    def __call__(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        self.told.append(time)
        steps = self.path.num_steps
        t = time / 1000 if steps is None else (time + 1) / steps
        if t.ndim == 2:
            t = t.repeat_interleave(x.shape[2] // t.shape[1], 1)[:, None, :, None, None]
        else:
            t = t[:, None, None, None, None]
        alpha, sigma = self.path.alpha(t.double()), self.path.sigma(t.double())
        gain = alpha / 4 / (alpha**2 / 4 + sigma**2)
        noise = (x - alpha * gain * x) / sigma.clamp(min=1e-9)
        found = target(self.kind, gain * x, noise, alpha, sigma).float()
        return torch.where(found.isfinite(), found, 0.0)  # a score has no value at time 0, a network has


def made(model: Levels, config: SamplerConfig, condition: Condition, unit: int = 1) -> Tensor:
    return sample(
        model, (2, *SHAPE), condition, config, model.path, model.kind, draws(2), frames_per_level=unit
    )


FOR_FRAMES = [name for name, kind in KINDS.items() if not kind.not_for_frames]
OPTIONS: dict[str, dict[str, Any]] = {"euler_maruyama": {"eta": 0.5}, "edm": {"churn": ChurnConfig(amount=2)}}
OPTIONS |= {"langevin": {"corrector": CorrectorConfig(steps=2)}}


def of_frames(solver: SolverName, lag: int, path: str) -> SamplerConfig:
    start = 0.99 if path == "rectified_flow" else 1.0
    settings = OPTIONS.get(solver, {})
    return SamplerConfig(steps=6, grid="even", start=start, solver=solver, frame_lag=lag, **settings)


@pytest.mark.parametrize("solver", FOR_FRAMES)
@pytest.mark.parametrize("path", ["rectified_flow", "ddpm_linear"])
def test_frames_that_lag_end_where_frames_together_do(solver: SolverName, path: str) -> None:
    """The exact flow of a frame does not depend on the others here, so that neither does its end.

    What is drawn in a frame's step is of the frame and of its own number of the step.
    """
    kind: Prediction = "flow" if path == "rectified_flow" else "noise"
    model = Levels(kind, path)
    together = made(model, of_frames(solver, 0, path), Condition(), unit=0)
    alone, each = len(model.told), KINDS[solver].evaluations_with(of_frames(solver, 0, path).options)
    for lag in (1, 2, 6):
        model = Levels(kind, path)
        lagging = made(model, of_frames(solver, lag, path), Condition())
        torch.testing.assert_close(lagging, together, rtol=1e-5, atol=1e-5)
        idle = 3 * max(0, lag * each - alone)  # groups one after the other do not wait for the next
        assert len(model.told) == alone + 3 * lag * each - idle


def test_the_times_that_frames_are_told_follow_each_other() -> None:
    model = Levels("flow")
    config = SamplerConfig(steps=2, grid="even", solver="ddim", frame_lag=1)
    made(model, config, Condition(), unit=2)
    assert [told[0].tolist() for told in model.told] == [[1000, 1000], [500, 1000], [0, 500]]
    model = Levels("flow")
    made(model, replace(config, frame_lag=2), Condition(), unit=2)
    assert [told[0].tolist() for told in model.told] == [[1000, 1000], [500, 1000], [0, 1000], [0, 500]]
    model = Levels("flow")
    made(model, replace(config, solver="heun"), Condition(), unit=2)
    times = [[1000, 1000], [500, 1000], [500, 1000], [0, 500], [0, 500]]
    assert [told[0].tolist() for told in model.told] == times


def coupled(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
    """Return the flow of a network whose estimate for a frame depends on the one before it."""
    t = (time / 1000)[:, None, :, None, None].double()
    data = 0.5 * torch.tanh(x) + 0.4 * torch.tanh(torch.cat([x[:, :, :1], x[:, :, :-1]], 2))
    return (x - data) / t.clamp(min=1e-6) * (t > 0)


@pytest.mark.parametrize(("solver", "order"), [("ddim", 0.9), ("heun", 1.8), ("dpmpp_2m", 1.8)])
def test_frames_that_depend_on_each_other_converge_with_the_order(solver: SolverName, order: float) -> None:
    """A lag that grows with the steps is the same curve of levels, which finer steps follow more closely.

    States are compared when the first frame comes to the last time above 0, the step to which is one alone.
    """
    ends: list[Tensor] = []
    for refined in (1, 2, 4, 8):
        levels = [0.9 - 0.1 * n / refined for n in range(8 * refined + 1)]
        seen: list[Tensor] = []

        def denoise(x: Tensor, level: Level, seen: list[Tensor] = seen) -> Estimate:
            seen.append(x)
            flow = coupled(x, level.time_input, Condition())  # type: ignore[arg-type]
            return Estimate(x - level.sigma * flow, x + level.alpha * flow)

        path = make_path("rectified_flow")
        course = Course.along([*levels, 0.0], path, lambda number: data(2).double())
        walks = require_for_frames(solver)
        delay = 2 * refined * KINDS[solver].evaluations
        solve_frames(walks, denoise, data(2).double(), course, 1, delay)
        ends.append(seen[KINDS[solver].evaluations * 8 * refined])
    gaps = [float((one - other).abs().median()) for one, other in pairwise(ends)]
    assert math.log2(gaps[-2] / gaps[-1]) > order


def test_given_frames_stay_bit_for_bit_and_are_told_as_clean() -> None:
    mask = torch.tensor([[1.0, 0, 0, 0], [1.0, 1, 0, 0]])
    latents = data(2) * mask[:, None, :, None, None]
    condition = Condition(frame_mask=mask, frame_latents=latents)
    for lag in (0, 2):
        model = Levels("flow")
        found = made(model, SamplerConfig(steps=4, frame_lag=lag, start=0.99), condition)
        kept = mask[:, None, :, None, None].bool().expand_as(found)
        assert torch.equal(found[kept], latents[kept])
        assert all(bool((told[mask > 0] == 0).all()) for told in model.told)
        assert found.isfinite().all()


@pytest.mark.parametrize("kind", ["flow", "data", "noise", "score", "edm"])
@pytest.mark.parametrize(
    "fields",
    [
        {"threshold": ThresholdConfig(kind="dynamic", limit=0.5)},
        {"guidance": 2.0, "guidance_kind": "apg"},
        {"guidance": 2.0, "guidance_kind": "cfg_zero", "guidance_rescale": 0.5},
    ],
)
def test_what_acts_on_the_data_is_finite_beside_frames_at_time_0(
    kind: Prediction, fields: dict[str, Any]
) -> None:
    model = Levels(kind)
    for lag in (0, 2):
        mask = torch.tensor([[1.0, 0, 0, 0], [1.0, 1, 0, 0]])
        latents = data(2) * mask[:, None, :, None, None]
        condition = Condition(label=torch.zeros(2).long(), frame_mask=mask, frame_latents=latents)
        found = made(model, SamplerConfig(steps=4, start=0.95, frame_lag=lag, **fields), condition)
        assert found.isfinite().all()
        kept = mask[:, None, :, None, None].bool().expand_as(found)
        assert torch.equal(found[kept], latents[kept])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, r"frame_lag=1: expected 0 for a network made without model"),
        ({"solver": "dopri5"}, r"solver=dopri5: expected euler, .*, since each sample has steps of its own"),
        ({"solver": "restart"}, r"solver=restart: .*, since it goes back to more noise"),
        ({"solver": "dpmpp_2s"}, r"solver=dpmpp_2s: .*, since its steps from pure noise evaluate once"),
        ({"solver": "mean_flow"}, r"solver=mean_flow: .*, since its network is told two times"),
        ({"guidance_end": 0.2}, r"guidance_end=0\.2: expected 0, since frames that lag have levels of"),
        ({"guide": GuideConfig(classifier=1)}, r"guide\.classifier=1: expected 0, since frames that lag"),
    ],
)
def test_what_has_no_form_for_frames_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        made(Levels("flow"), SamplerConfig(frame_lag=1, **fields), Condition(), unit=0)


@pytest.mark.parametrize(
    ("fields", "unit", "message"),
    [
        (
            {"frame_times": "monotone"},
            0,
            r"frame_times=monotone: expected shared without model\.frame_levels",
        ),
        ({"frame_times": "prefix"}, 1, r"given_frames=0\.5: expected 0 with frame_times=prefix"),
        (
            {"learned_sigma": True, "path": "ddpm_linear", "prediction": "noise"},
            1,
            r"learned_sigma=True: expected false with model\.frame_levels",
        ),
    ],
)
def test_training_that_cannot_be_is_refused(fields: dict[str, object], unit: int, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Objective(ObjectiveConfig(**fields), frames_per_level=unit)  # type: ignore[arg-type]


def test_conversions_are_the_state_itself_at_time_0() -> None:
    x, output = data(2), data(2) + 1
    for kind in ("noise", "data", "v", "flow", "score", "edm"):
        found = to_data(kind, output, x, torch.ones(1), torch.zeros(1))  # type: ignore[arg-type]
        noise = to_noise(kind, output, x, torch.ones(1), torch.zeros(1)) if kind != "data" else x  # type: ignore[arg-type]
        assert noise.isfinite().all()
        if kind != "data":
            torch.testing.assert_close(found, x)
