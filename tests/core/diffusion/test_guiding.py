"""Guidance held to closed forms: scores of mixtures, from exact networks, in float64."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import pytest
import torch
from torch import Tensor

from core.batch import Condition
from core.config.loading import load
from core.diffusion.estimating import estimating
from core.diffusion.generating import sample
from core.diffusion.guidance.branches import Branches, Part, by_condition, dropped_parts, guided_by
from core.diffusion.guidance.classifiers import ClassifierGuide
from core.diffusion.guidance.config import GuideConfig
from core.diffusion.guidance.guides import Guides
from core.diffusion.guidance.mixing import Guidance, GuidanceKind, Momentum
from core.diffusion.objectives.noised import Model
from core.diffusion.paths.kinds import make_path
from core.diffusion.predictions import Prediction
from core.diffusion.sampling import SamplerConfig
from core.diffusion.solvers.ddim import ddim
from core.diffusion.solvers.levels import Denoise, Estimate, Level, levels_at
from core.diffusion.solvers.runge_kutta import heun
from core.diffusion.thresholds import ThresholdConfig
from core.draws import Draws
from core.errors import UserError
from tests.core.diffusion.exact_network import (
    SHAPE,
    ExactNetwork,
    allowed,
    class_log_probabilities,
    levels,
    log_density,
)

FLOW = make_path("rectified_flow")
PREDICTIONS: tuple[Prediction, ...] = ("noise", "data", "v", "flow")
TIMES = levels_at(FLOW, [0.95, 0.6, 0.25, 0.02])
X = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
LABEL = torch.tensor([0, 1, 1])
TEXTS = Condition(label=LABEL, text=torch.zeros(3, 2, 1), text_length=torch.tensor([1, 2, 1]))
CLOSE = {"rtol": 1e-10, "atol": 1e-10}


def estimates(branches: Branches, prediction: Prediction, **options: object) -> Denoise:
    guidance = options.pop("guidance", Guidance())
    return estimating(
        guided_by(branches),
        guidance,  # type: ignore[arg-type]
        ThresholdConfig(),
        FLOW,
        prediction,
        SHAPE[0],
        learned_sigma=False,
        **options,  # type: ignore[arg-type]
    )


def log_p(level: Level, condition: Condition) -> Callable[[Tensor], Tensor]:
    return lambda x: log_density(x, level.alpha, level.sigma, allowed(condition, len(x)))


def score(density: Callable[[Tensor], Tensor]) -> Tensor:
    x = X.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(density(x).sum(), x)
    return gradient


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_the_guided_score_is_that_of_the_powers_of_the_densities(prediction: Prediction) -> None:
    w, condition = 2.5, Condition(label=LABEL)
    denoise = estimates(by_condition(ExactNetwork(FLOW, prediction), condition, w), prediction)
    for level in TIMES:
        given, none = log_p(level, condition), log_p(level, Condition())
        expected = score(lambda x, given=given, none=none: w * given(x) + (1 - w) * none(x))  # type: ignore[misc]
        torch.testing.assert_close(-denoise(X, level).noise / level.sigma, expected, **CLOSE)


def test_own_scales_of_class_and_text_give_powers_of_three_densities() -> None:
    own: dict[Part, float] = {"label": 1.5, "text": 4.0}
    denoise = estimates(by_condition(ExactNetwork(FLOW, "flow"), TEXTS, 1.0, own), "flow")
    for level in TIMES:
        both, label, none = (log_p(level, c) for c in (TEXTS, Condition(label=LABEL), Condition()))
        expected = score(lambda x, p=both, q=label, r=none: 4.0 * p(x) - 2.5 * q(x) - 0.5 * r(x))  # type: ignore[misc]
        torch.testing.assert_close(-denoise(X, level).noise / level.sigma, expected, **CLOSE)


def test_a_negative_condition_takes_the_place_of_none() -> None:
    negative = Condition(label=torch.tensor([1, -1, 0]))
    condition = Condition(label=LABEL)
    denoise = estimates(by_condition(ExactNetwork(FLOW, "v"), condition, 3.0, negative=negative), "v")
    for level in TIMES:
        given, other = log_p(level, condition), log_p(level, negative)
        expected = score(lambda x, p=given, q=other: 3 * p(x) - 2 * q(x))  # type: ignore[misc]
        torch.testing.assert_close(-denoise(X, level).noise / level.sigma, expected, **CLOSE)


def test_a_longer_negative_text_is_padded_beside_the_prompt() -> None:
    seen: list[Condition] = []

    def model(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        seen.append(condition)
        return x

    negative = Condition(text=torch.ones(3, 4, 1), text_length=torch.tensor([4, 0, 3]))
    guided_by(by_condition(model, replace(TEXTS, label=None), 2.0, negative=negative))(X, 0.5, 500.0)
    (found,) = seen
    assert found.text is not None
    assert found.text.shape == (6, 4, 1)
    assert found.text_length is not None
    assert found.text_length.tolist() == [1, 2, 1, 4, 0, 3]


def test_autoguidance_moves_away_from_a_weaker_network() -> None:
    strong, weak = ExactNetwork(FLOW, "data"), ExactNetwork(FLOW, "data", variance=0.5)
    condition = Condition(label=LABEL)
    plain = by_condition(strong, condition, 1.0)
    denoise = estimates(plain.with_weaker(weak, 2.0), "data")
    for level in TIMES:
        good, bad = (
            estimates(by_condition(m, condition, 1.0), "data")(X, level).data for m in (strong, weak)
        )
        torch.testing.assert_close(denoise(X, level).data, 2 * good - bad, **CLOSE)
        alone = estimates(plain.with_weaker(weak, 1.0), "data")(X, level)
        assert torch.equal(alone.data, good)


def test_guidance_by_several_differences_adds_them() -> None:
    strong, weak = ExactNetwork(FLOW, "flow"), ExactNetwork(FLOW, "flow", variance=0.5)
    condition, level = Condition(label=LABEL), TIMES[1]
    branches = Guides(weak=weak).branches(strong, condition, 3.0, GuideConfig(weak=2.0))
    time = torch.tensor([level.time_input])
    given, none, bad = strong(X, time, condition), strong(X, time, Condition()), weak(X, time, condition)
    found = guided_by(branches)(X, level.t, level.time_input)
    torch.testing.assert_close(found, given + 2 * (given - none) + (given - bad), **CLOSE)


@pytest.mark.parametrize("kind", get_args(GuidanceKind))
def test_scale_one_leaves_the_conditional_model(kind: GuidanceKind) -> None:
    network, condition = ExactNetwork(FLOW, "flow"), Condition(label=LABEL)
    branches = by_condition(network, condition, 1 + 1e-13)
    denoise = estimates(branches, "flow", guidance=Guidance(kind, rescale=0.7))
    for level in TIMES:
        expected = estimates(by_condition(network, condition, 1.0), "flow")(X, level)
        torch.testing.assert_close(denoise(X, level).data, expected.data, **CLOSE)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_a_classifier_of_scale_one_gives_the_conditional_score(prediction: Prediction) -> None:
    network = ExactNetwork(FLOW, prediction)

    def classifier(x: Tensor, time: Tensor) -> Tensor:
        return class_log_probabilities(x, *levels(FLOW, float(time[0]) / 1000))

    label = torch.tensor([0, 1, -1])
    for level in TIMES:
        plain = estimates(by_condition(network, Condition(), 1.0), prediction)(X, level)
        given = estimates(by_condition(network, Condition(label=label), 1.0), prediction)(X, level)
        for scale, expected in ((0.0, plain), (1.0, given)):
            guide = ClassifierGuide(classifier, label, scale)
            denoise = estimates(by_condition(network, Condition(), 1.0), prediction, classifier=guide)
            found = denoise(X, level)
            torch.testing.assert_close(found.noise, expected.noise, **CLOSE)
            torch.testing.assert_close(found.data, expected.data, **CLOSE)
            assert (scale != 0) or torch.equal(found.data, expected.data)


def test_momentum_advances_once_a_step_whatever_the_evaluations() -> None:
    """With a difference of 1 at every evaluation the sums are 1, 1 + b, 1 + b + b^2, ..."""
    times, one = [1.0, 0.6, 0.3, 0.0], torch.ones(1)
    sums = [1.0, 0.5, 0.75]
    for inner in ([], [0.8, 0.8], [0.6]):
        momentum, found = Momentum(-0.5, times), list[float]()
        for number in range(3):
            found.append(float(momentum.advance(one, times[number])))
            for t in inner:
                if times[number + 1] <= t < times[number] and t > 0:
                    momentum.advance(one, t)
        assert found == sums
    momentum = Momentum(-0.5, times)
    momentum.advance(one, 1.0)
    assert float(momentum.advance(one, 0.3)) == 1.0  # a step was left out, by an interval


def test_momentum_changes_projected_guidance_only_from_the_second_step_on() -> None:
    condition, network = Condition(label=LABEL), ExactNetwork(FLOW, "flow")
    first, second = TIMES[1:3]
    found = []
    for momentum in (None, Momentum(-0.5, [0.6, 0.25, 0.0])):
        denoise = estimates(
            by_condition(network, condition, 4.0), "flow", guidance=Guidance("apg"), momentum=momentum
        )
        found.append([denoise(X, level).data for level in (first, second)])
    assert torch.equal(found[0][0], found[1][0])
    assert not torch.allclose(found[0][1], found[1][1])


@pytest.mark.parametrize("solver", [ddim, heun])
def test_zero_steps_move_nothing_without_the_network(solver: Callable[..., Tensor]) -> None:
    """In z = x / (alpha + sigma), of which the flow is the slope, nothing happens above the second time."""
    path = make_path("ddpm_linear")
    times, asked = [1.0, 0.8, 0.5, 0.0], list[float]()

    def model(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        asked.append(float(time[0]))
        return torch.zeros_like(x)

    denoise = estimating(
        guided_by(by_condition(model, Condition(), 1.0)),
        Guidance("cfg_zero"),
        ThresholdConfig(),
        path,
        "noise",
        SHAPE[0],
        learned_sigma=False,
        still_above=times[1],
    )
    here, there = levels_at(path, [1.0, 0.8])
    found: Estimate = denoise(X, here)
    moved = X / (here.alpha + here.sigma) + (there.straight - here.straight) * (found.noise - found.data)
    torch.testing.assert_close(moved, X / (here.alpha + here.sigma), **CLOSE)
    solver(denoise, X, times, path, noise=lambda i: X)
    assert asked
    assert max(asked) <= 799.5


class Counting:
    """Count the samples of each evaluation."""

    def __init__(self, network: Model) -> None:
        self.network, self.sizes = network, list[int]()

    def __call__(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        self.sizes.append(len(x))
        return self.network(x, time, condition)


@pytest.mark.parametrize(
    ("scale", "together", "sizes"),
    [(0.0, True, [3]), (1.0, True, [3]), (2.0, True, [6]), (2.0, False, [3, 3])],
)
def test_how_many_samples_are_evaluated_at_once(scale: float, together: bool, sizes: list[int]) -> None:
    model, condition = Counting(ExactNetwork(FLOW, "flow")), Condition(label=LABEL)
    found = guided_by(by_condition(model, condition, scale), together=together)(X, 0.6, 600.0)
    assert model.sizes == sizes
    time = torch.tensor([600.0])
    given, none = (ExactNetwork(FLOW, "flow")(X, time, c) for c in (condition, Condition()))
    torch.testing.assert_close(found, none + scale * (given - none), **CLOSE)


def test_conditions_take_turns_once_memory_is_short(capsys: pytest.CaptureFixture[str]) -> None:
    network, sizes = ExactNetwork(FLOW, "flow"), list[int]()

    def small(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        sizes.append(len(x))
        if len(x) > 3:
            raise torch.OutOfMemoryError("no memory")
        return network(x, time, condition)

    guided, condition = guided_by(by_condition(small, Condition(label=LABEL), 2.0)), Condition(label=LABEL)
    expected = guided_by(by_condition(network, condition, 2.0))(X, 0.6, 600.0)
    for _ in range(2):
        torch.testing.assert_close(guided(X, 0.6, 600.0), expected, **CLOSE)
    assert sizes == [6, 3, 3, 3, 3]
    assert capsys.readouterr().err.count("memory is short for 3 samples") == 1
    with pytest.raises(torch.OutOfMemoryError):
        guided(torch.cat([X, X]), 0.6, 600.0)


def test_which_parts_are_dropped_for_scales_of_their_own() -> None:
    both = frozenset[Part]({"label", "text"})
    assert dropped_parts(["label", "text"], 3.0, {}) == [(both, 3.0)]
    assert dropped_parts(["frames", "label"], 3.0, {}) == [(frozenset({"label"}), 3.0)]
    assert dropped_parts(["label", "text"], 3.0, {"text": 7.0}) == [(frozenset({"text"}), 7.0), (both, 3.0)]
    assert dropped_parts(["label", "text"], 1.0, {"text": 7.0}) == [(frozenset({"text"}), 7.0)]
    assert dropped_parts(["label", "text"], 1.0, {}) == []


def test_frames_are_dropped_by_a_scale_of_their_own_alone() -> None:
    seen: list[Condition] = []

    def model(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        seen.append(condition)
        return x

    mask, latents = torch.tensor([[1.0, 0.0]]), torch.ones(1, 2, 2, 1, 1)
    given = Condition(label=torch.tensor([3]), frame_mask=mask, frame_latents=latents)
    guided_by(by_condition(model, given, 3.0, {"frames": 2.0}))(torch.zeros(1, 2, 2, 1, 1), 0.5, 500.0)
    (found,) = seen
    assert found.label is not None
    assert found.label.tolist() == [3, -1, -1]
    assert found.frame_mask is not None
    assert found.frame_mask.tolist() == [[1, 0], [1, 0], [0, 0]]
    assert found.frame_latents is not None
    assert found.frame_latents[2].abs().max() == 0


@pytest.mark.parametrize(
    "guide",
    [
        GuideConfig(weak=2.0),
        GuideConfig(skip=2.0, skip_blocks=(1,)),
        GuideConfig(classifier=1.0),
    ],
)
def test_a_guided_sample_is_another_one_and_a_missing_network_is_named(guide: GuideConfig) -> None:
    strong, weak = ExactNetwork(FLOW, "flow"), ExactNetwork(FLOW, "flow", variance=0.5)
    config, rows = SamplerConfig(steps=4, grid="trailing", start=0.99, guide=guide), torch.arange(3)
    draws = Draws(0, 0, rows, torch.zeros_like(rows))

    def classifier(x: Tensor, time: Tensor) -> Tensor:
        return torch.stack([x.sum((1, 2, 3, 4)), -x.sum((1, 2, 3, 4))], 1).log_softmax(1)

    def made(config: SamplerConfig, guides: Guides) -> Tensor:
        condition = Condition(label=LABEL)
        return sample(strong, (3, *SHAPE), condition, config, FLOW, "flow", draws, guides=guides)

    plain = made(replace(config, guide=GuideConfig()), Guides())
    other = made(config, Guides(weak=weak, skipping=weak, classifier=classifier))
    assert other.isfinite().all()
    assert not torch.allclose(plain, other)
    with pytest.raises(UserError, match=r"^guide\.(weak|skip|classifier)=[12]\.0: expected [01] without"):
        made(config, Guides())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["guide.momentum=0.5"], r"guide\.momentum=0\.5: expected 0 with guidance_kind=cfg; apg takes it"),
        (["guide.zero_steps=1"], r"guide\.zero_steps=1: expected 0 with guidance_kind=cfg; cfg_zero takes"),
        (
            ["guidance_kind=cfg_zero", "guide.zero_steps=50"],
            r"guide\.zero_steps=50: expected fewer than steps",
        ),
        (["guide.skip=2"], r"guide\.skip_blocks=\[\]: expected numbers of blocks"),
        (["guide.skip_blocks=[3]"], r"guide\.skip_blocks=\[3\]: expected numbers of blocks"),
        (["guidance_kind=apg", "guidance=2", "guide.weak=2"], r"guide\.weak=2\.0: expected nothing beside"),
        (["guidance_kind=apg", "guide.text=2"], r"guide\.text=2\.0: expected nothing beside"),
    ],
)
def test_guidance_that_cannot_be_is_named(overrides: list[str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(SamplerConfig, overrides=overrides)


@pytest.mark.parametrize("w", [0.5, 2.5])
def test_a_sample_is_the_end_of_the_guided_flow_and_no_draw_from_the_product_of_densities(w: float) -> None:
    """Of N(0, c) with the condition and N(0, d) without.

    Along the flow of N(0, v) log x changes as half of log(alpha^2 v + sigma^2), and guided scores add with
    the weights w and 1 - w, so that a start of deviation 1 ends with c^(w/2) d^((1-w)/2). The product of the
    densities of the data has the variance 1 / (w / c + (1 - w) / d).
    """
    c, d = 0.2, 0.6

    def network(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        t = time.double().reshape(-1, 1, 1, 1, 1) / 1000
        assert condition.label is not None
        v = torch.where(condition.label < 0, d, c).double().reshape(-1, 1, 1, 1, 1)
        return (t - (1 - t) * v) / ((1 - t) ** 2 * v + t**2) * x.double()

    rows = torch.arange(64)
    draws = Draws(0, 0, rows, torch.zeros_like(rows))
    condition, config = (
        Condition(label=torch.zeros_like(rows)),
        SamplerConfig(solver="rk4", steps=80, guidance=w),
    )
    found = sample(network, (64, *SHAPE), condition, config, FLOW, "flow", draws)
    scale = c ** (w / 2) * d ** ((1 - w) / 2)
    torch.testing.assert_close(found, scale * draws.normal("sample_start", SHAPE), rtol=1e-4, atol=1e-4)
    assert abs(scale**2 - 1 / (w / c + (1 - w) / d)) > 0.02
