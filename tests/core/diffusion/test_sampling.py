"""Sampling and guidance: the network's inputs, and the independence of samples."""

import pytest
import torch
from torch import Tensor

from core.batch import Condition
from core.diffusion.generating import sample
from core.diffusion.guidance.branches import Guided, by_condition, guided_by
from core.diffusion.objectives.noised import Model
from core.diffusion.paths.kinds import make_path
from core.diffusion.sampling import SamplerConfig, time_grid
from core.diffusion.solvers.kinds import SolverName
from core.draws import Draws
from core.errors import UserError, WorkError

FLOW, CHAIN = make_path("rectified_flow"), make_path("ddpm_linear")


class Recorder:
    """Answers with its label (none: -1), if asked with a variance of 10 + label; notes its batches."""

    def __init__(self, variance: bool = False) -> None:
        self.variance, self.sizes, self.times = variance, list[int](), list[float]()

    def __call__(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        self.sizes.append(len(x))
        self.times.append(float(time[0]))
        assert condition.label is not None
        label = condition.label.reshape(-1, 1, 1, 1, 1).float()
        out = x * 0.1 + label
        return torch.cat([out, torch.zeros_like(x) + 10 + label], 1) if self.variance else out


def draws(ids: list[int]) -> Draws:
    return Draws(0, 0, torch.tensor(ids), torch.zeros(len(ids), dtype=torch.int64))


def labels(ids: list[int]) -> Condition:
    return Condition(label=torch.tensor(ids))


def classifier_free(
    model: Model, condition: Condition, scale: float, interval: tuple[float, float] = (0.0, 1.0)
) -> Guided:
    return guided_by(by_condition(model, condition, scale), interval)


def test_guidance_is_one_forward_of_both_halves() -> None:
    model, x = Recorder(), torch.randn(3, 2, 1, 2, 2)
    guided = classifier_free(model, labels([0, 1, 2]), scale=3.0)(x, 0.5, 500.0)
    expected = x * 0.1 - 1 + 3 * (torch.arange(3).reshape(-1, 1, 1, 1, 1) + 1)
    torch.testing.assert_close(guided, expected)
    assert model.sizes == [6]
    assert model.times == [500.0]


def test_scale_one_is_one_forward_with_the_condition() -> None:
    model, x = Recorder(), torch.randn(3, 2, 1, 2, 2)
    guided = classifier_free(model, labels([0, 1, 2]), scale=1.0)(x, 0.5, 500.0)
    assert model.sizes == [3]
    assert torch.equal(guided, Recorder()(x, torch.zeros(3), labels([0, 1, 2])))
    nearly = classifier_free(Recorder(), labels([0, 1, 2]), scale=1 + 1e-6)(x, 0.5, 500.0)
    torch.testing.assert_close(nearly, guided, rtol=1e-5, atol=1e-5)


def test_guidance_acts_inside_its_interval_only() -> None:
    model, x = Recorder(), torch.randn(2, 2, 1, 2, 2)
    guided = classifier_free(model, labels([0, 1]), scale=3.0, interval=(0.3, 0.6))
    for t in (0.9, 0.6, 0.3, 0.1):
        guided(x, t, 1000 * t)
    assert model.sizes == [2, 4, 4, 2]


def test_guidance_leaves_the_learned_variance_to_the_condition() -> None:
    x = torch.randn(2, 2, 1, 2, 2)
    guided = classifier_free(Recorder(variance=True), labels([4, 5]), scale=3.0)(x, 0.5, 500.0)
    assert guided.shape[1] == 4
    assert guided[:, 2:].flatten(1).unique(dim=1).flatten().tolist() == [14.0, 15.0]


def test_text_and_given_frames_in_guidance() -> None:
    seen: list[Condition] = []

    def model(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        seen.append(condition)
        return x

    mask, latents = torch.tensor([[1.0, 0.0]]), torch.ones(1, 2, 2, 1, 1)
    condition = Condition(text=torch.ones(1, 5, 3), frame_mask=mask, frame_latents=latents)
    classifier_free(model, condition, scale=2.0)(torch.zeros(1, 2, 2, 1, 1), 0.5, 500.0)
    assert seen[0].text_length is not None
    assert seen[0].text_length.tolist() == [5, 0]
    assert seen[0].frame_mask is not None
    assert seen[0].frame_mask.tolist() == [[1, 0], [1, 0]]


def test_guidance_without_a_condition_is_refused() -> None:
    with pytest.raises(UserError, match=r"guidance=2.0: expected 1"):
        classifier_free(Recorder(), Condition(), 2.0)


@pytest.mark.parametrize("solver", ["euler", "heun", "ddim", "ddpm"])
@pytest.mark.parametrize("path", [FLOW, CHAIN])
def test_a_sample_does_not_depend_on_its_batch(solver: str, path) -> None:  # type: ignore[no-untyped-def]
    config = SamplerConfig(solver=solver, steps=5, guidance=2.0)  # type: ignore[arg-type]

    def generate(ids: list[int]) -> Tensor:
        shape = (len(ids), 2, 1, 3, 3)
        return sample(Recorder(), shape, labels(ids), config, path, "v", draws(ids))

    whole = generate([3, 1, 4])
    assert torch.equal(whole[1:2], generate([1]))
    assert torch.equal(whole[[2, 0]], generate([4, 3]))
    assert whole.isfinite().all()


def test_the_answer_of_a_perfect_network_is_the_data() -> None:
    x0 = torch.randn(2, 2, 1, 3, 3)
    for solver in ("euler", "heun", "ddim", "ddpm"):
        for path in (FLOW, CHAIN):
            config = SamplerConfig(solver=solver, steps=4)
            found = sample(
                lambda x, t, c: x0, (2, 2, 1, 3, 3), Condition(), config, path, "data", draws([0, 1])
            )
            torch.testing.assert_close(found, x0, rtol=1e-5, atol=1e-5)


def test_number_of_evaluations() -> None:
    for solver, expected in (("euler", 7), ("ddim", 7), ("ddpm", 7), ("heun", 13)):
        model = Recorder()
        config = SamplerConfig(solver=solver, steps=7)  # type: ignore[arg-type]
        sample(model, (1, 2, 1, 2, 2), labels([0]), config, FLOW, "flow", draws([0]))
        assert len(model.sizes) == expected


def test_a_chain_is_sampled_at_times_it_was_trained_at() -> None:
    model = Recorder()
    sample(model, (1, 2, 1, 2, 2), labels([0]), SamplerConfig(steps=250), CHAIN, "v", draws([0]))
    assert model.times[0] == 999
    assert model.times[-1] == 0
    assert all(abs(time - round(time)) < 1e-3 for time in model.times)
    assert time_grid(SamplerConfig(steps=1000), CHAIN, "v")[-3:] == [0.002, 0.001, 0.0]


def test_the_ancestral_sampler_uses_a_learned_variance() -> None:
    """Fraction -1 is the posterior's variance, also taken where the model predicts none; +1 is more."""

    def network(fraction: float) -> Model:
        return lambda x, time, condition: torch.cat([torch.zeros_like(x), torch.full_like(x, fraction)], 1)

    def generate(model: Model, learned: bool) -> Tensor:
        config, shape = SamplerConfig(solver="ddpm", steps=3), (1, 2, 1, 32, 32)
        return sample(model, shape, Condition(), config, CHAIN, "v", draws([0]), learned_sigma=learned)

    low, high = generate(network(-1.0), True), generate(network(1.0), True)
    torch.testing.assert_close(low, generate(lambda x, time, condition: torch.zeros_like(x), False))
    assert torch.equal(generate(network(1.0), False), generate(network(-1.0), False))
    assert float(high.abs().mean()) > 1.01 * float(low.abs().mean())


def test_impossible_grids_are_refused() -> None:
    with pytest.raises(UserError, match=r"steps=1001: expected at most 1000 on ddpm_linear"):
        time_grid(SamplerConfig(steps=1001), CHAIN, "v")
    with pytest.raises(UserError, match="share a time"):
        time_grid(SamplerConfig(grid="even", steps=1000, shift=3.0), CHAIN, "v")
    with pytest.raises(UserError, match="guidance_start"):
        SamplerConfig(guidance_start=0.1, guidance_end=0.5)


def test_noise_prediction_cannot_start_where_there_is_no_data() -> None:
    arguments = ((1, 2, 1, 2, 2), labels([0]))
    with pytest.raises(UserError, match=r"^start=1\.0: expected 0\.998 or lower"):
        sample(Recorder(), *arguments, SamplerConfig(), FLOW, "noise", draws([0]))
    assert (
        sample(Recorder(), *arguments, SamplerConfig(start=0.99), FLOW, "noise", draws([0])).isfinite().all()
    )


def test_given_frames_come_out_unchanged() -> None:
    mask, latents = torch.tensor([[1.0, 0.0]]), torch.full((1, 2, 2, 2, 2), 0.5)
    condition = Condition(label=torch.tensor([0]), frame_mask=mask, frame_latents=latents)
    x = sample(Recorder(), (1, 2, 2, 2, 2), condition, SamplerConfig(steps=3), FLOW, "flow", draws([0]))
    assert torch.equal(x[:, :, 0], latents[:, :, 0])
    assert not torch.equal(x[:, :, 1], latents[:, :, 1])


@pytest.mark.parametrize("solver", ["euler", "heun", "dopri5"])
def test_a_network_that_is_not_finite_is_named_with_sample_and_evaluation(solver: SolverName) -> None:
    calls = list[float]()

    def failing(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        calls.append(float(time.max()))
        broken = torch.zeros_like(x)
        if len(calls) >= 3:
            broken[1] = torch.nan
        return 0.1 * x + broken

    config = SamplerConfig(steps=4, solver=solver)
    with pytest.raises(
        WorkError, match=r"^sample 7: what the network estimates is not finite at evaluation 3, "
    ):
        sample(failing, (2, 2, 1, 2, 2), Condition(), config, FLOW, "flow", draws([4, 7]))
    assert 3 < len(calls) < 80  # nothing waits for the device before the end; nothing tries for ever
