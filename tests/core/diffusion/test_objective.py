"""The loss: its value where the answer is known, its weights, and its keyed draws."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from core.batch import Condition
from core.diffusion import predictions
from core.diffusion.objective import Objective
from core.diffusion.objectives.config import ObjectiveConfig
from core.diffusion.objectives.noised import Model, squared_error
from core.diffusion.paths.kinds import make_path
from core.diffusion.paths.path import PathName
from core.diffusion.predictions import Prediction
from core.draws import Draws
from core.errors import UserError
from tests.core.diffusion.every_path import CHAINS, KINDS, PATHS

SHAPE = (2, 3, 2, 2)
REFUSED = {("edm", "v"), ("variance_exploding", "v")} | {
    (path, "posterior_mean") for path in PATHS if path not in CHAINS
}


def draws(size: int) -> Draws:
    return Draws(0, 5, torch.arange(size), torch.arange(size))


def data(size: int) -> Tensor:
    return torch.randn(size, *SHAPE, generator=torch.Generator().manual_seed(1))


def levels(path_name: PathName, time_input: Tensor) -> tuple[Tensor, Tensor]:
    """Return alpha and sigma (B, 1, 1, 1, 1) from the network's time input."""
    path = make_path(path_name)
    t = (time_input + 1) / path.num_steps if path.num_steps else time_input / 1000
    return path.alpha(t).reshape(-1, 1, 1, 1, 1), path.sigma(t).reshape(-1, 1, 1, 1, 1)


def knowing(config: ObjectiveConfig, x0: Tensor, error: float = 0.0) -> Model:
    """Return a model that knows the data and guesses it wrong by `error` everywhere."""

    def model(x: Tensor, time_input: Tensor, condition: Condition) -> Tensor:
        path = make_path(config.path)
        alpha, sigma = levels(config.path, time_input)
        if path.scales_input:
            x = x * (1 + sigma**2).sqrt()
        noise = (x - alpha * (x0 + error)) / sigma
        before = None
        if config.prediction == "posterior_mean":
            lower = levels(config.path, (time_input - 1).clamp(min=-1))
            before = lower[0].double(), lower[1].double()
        return predictions.target(config.prediction, x0 + error, noise, alpha, sigma, before).float()

    return model


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_knows_the_data_has_no_loss(path: PathName, kind: Prediction) -> None:
    if (path, kind) in REFUSED:
        return
    space = "noise" if kind == "score" else ""
    config, x0 = ObjectiveConfig(path=path, prediction=kind, loss_space=space), data(16)
    losses = Objective(config).loss(knowing(config, x0), x0, Condition(), draws(16))
    assert losses.loss.shape == (16,)
    assert float(losses.loss.max()) < 1e-6


def test_a_silent_model_pays_the_mean_square_of_the_target() -> None:
    x0 = data(8)
    losses = Objective(ObjectiveConfig()).loss(lambda x, t, c: torch.zeros_like(x), x0, Condition(), draws(8))
    expected = (draws(8).normal("noise", SHAPE) - x0).square().mean((1, 2, 3, 4))
    torch.testing.assert_close(losses.loss, expected)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("kind", KINDS)
def test_min_snr_weighs_an_error_in_the_data_alike(path: PathName, kind: Prediction) -> None:
    if (path, kind) in REFUSED:
        return
    config, x0 = ObjectiveConfig(path=path, prediction=kind, weighting="min_snr", min_snr_gamma=5), data(32)
    losses = Objective(config).loss(knowing(config, x0, error=0.5), x0, Condition(), draws(32))
    assert losses.time is not None
    level = make_path(path)
    snr = (level.alpha(losses.time) / level.sigma(losses.time)) ** 2
    torch.testing.assert_close(losses.loss, snr.clamp(max=5) * 0.25, rtol=5e-3, atol=1e-5)


def test_loss_of_a_sample_does_not_depend_on_its_batch() -> None:
    objective, x0 = Objective(ObjectiveConfig(), frame_condition=True), data(6)
    labels = torch.arange(6)

    def model(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        assert condition.label is not None
        return x * 0.3 + condition.label.reshape(-1, 1, 1, 1, 1)

    whole = objective.loss(model, x0, Condition(label=labels), draws(6))
    for i in range(6):
        one = Draws(0, 5, torch.tensor([i]), torch.tensor([i]))
        alone = objective.loss(model, x0[i : i + 1], Condition(label=labels[i : i + 1]), one)
        assert torch.equal(alone.loss[0], whole.loss[i])


def seen_condition(objective: Objective, condition: Condition, x0: Tensor) -> Condition:
    seen: list[Condition] = []

    def model(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        seen.append(condition)
        return torch.zeros_like(x)

    objective.loss(model, x0, condition, draws(len(x0)))
    return seen[0]


def test_dropout_takes_label_and_text_of_the_same_samples() -> None:
    n = 2000
    given = Condition(label=torch.zeros(n, dtype=torch.int64), text=torch.zeros(n, 3, 1))
    seen = seen_condition(Objective(ObjectiveConfig(label_dropout=0.1)), given, data(n))
    assert seen.label is not None
    assert seen.text_length is not None
    dropped = seen.label == -1
    assert float(dropped.float().mean()) == pytest.approx(0.1, abs=0.03)
    assert torch.equal(seen.text_length == 0, dropped)
    assert seen.text_length.unique().tolist() == [0, 3]
    kept = seen_condition(Objective(ObjectiveConfig(label_dropout=0.0)), given, data(n))
    assert kept.label is not None
    assert (kept.label == 0).all()


def test_given_frames_are_the_first_ones_and_cost_nothing() -> None:
    n = 3000
    x0, objective = data(n), Objective(ObjectiveConfig(given_frames=0.5), frame_condition=True)
    seen = seen_condition(objective, Condition(), x0)
    assert seen.frame_mask is not None
    assert seen.frame_latents is not None
    patterns, counts = seen.frame_mask.unique(dim=0, return_counts=True)
    assert patterns.tolist() == [[0, 0, 0], [1, 0, 0], [1, 1, 0]]
    assert counts.tolist() == pytest.approx([n / 2, n / 4, n / 4], rel=0.1)
    assert torch.equal(seen.frame_latents, x0 * seen.frame_mask.reshape(n, 1, 3, 1, 1))
    mask = seen.frame_mask

    def wrong_on_given(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        exact = knowing(ObjectiveConfig(), x0)(x, time, condition)
        return exact + 7 * mask.reshape(n, 1, 3, 1, 1)

    assert float(objective.loss(wrong_on_given, x0, Condition(), draws(n)).loss.max()) < 1e-6


def test_an_image_is_never_given() -> None:
    objective = Objective(ObjectiveConfig(given_frames=1.0), frame_condition=True)
    seen = seen_condition(objective, Condition(), data(9)[:, :, :1])
    assert seen.frame_mask is not None
    assert seen.frame_mask.tolist() == [[0.0]] * 9


def constant(output: Tensor) -> Model:
    return lambda x, time, condition: output


def test_the_bound_trains_the_variance_and_nothing_else() -> None:
    config = ObjectiveConfig(path="ddpm_linear", prediction="noise", learned_sigma=True)
    x0 = data(8)
    gradients = {}
    for weight in (0.001, 0.0):
        output = torch.zeros(8, 4, *SHAPE[1:], requires_grad=True)
        objective = Objective(replace(config, bound_weight=weight))
        losses = objective.loss(constant(output), x0, Condition(), draws(8))
        (gradients[weight],) = torch.autograd.grad(losses.loss.sum(), output)
        bits = losses.extras["bound_bits"]
        torch.testing.assert_close(losses.loss, losses.extras["squared_error"] + weight * 1000 * bits)
    assert torch.equal(gradients[0.001][:, :2], gradients[0.0][:, :2])
    assert (gradients[0.001][:, 2:] != 0).any()
    assert (gradients[0.0][:, 2:] == 0).all()


def test_an_untrained_variance_output_is_left_alone() -> None:
    x0 = data(4)
    output = torch.zeros(4, 4, *SHAPE[1:], requires_grad=True)
    losses = Objective(ObjectiveConfig()).loss(constant(output), x0, Condition(), draws(4))
    silent = Objective(ObjectiveConfig()).loss(constant(torch.zeros_like(x0)), x0, Condition(), draws(4))
    assert torch.equal(losses.loss, silent.loss)
    (gradient,) = torch.autograd.grad(losses.loss.sum(), output)
    assert (gradient[:, 2:] == 0).all()


def test_training_a_variance_that_is_not_predicted_is_refused() -> None:
    config = ObjectiveConfig(path="ddpm_linear", prediction="noise", learned_sigma=True)
    with pytest.raises(UserError, match="learned_sigma=True"):
        Objective(config).loss(constant(data(2)), data(2), Condition(), draws(2))


@pytest.mark.parametrize(("path", "prediction"), [("rectified_flow", "noise"), ("ddpm_linear", "v")])
def test_a_learned_variance_needs_a_chain_and_noise(path: PathName, prediction: Prediction) -> None:
    with pytest.raises(UserError, match=r"learned_sigma=True: expected false unless"):
        ObjectiveConfig(path=path, prediction=prediction, learned_sigma=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_squared_error_and_its_gradient_are_those_of_its_definition(dtype: torch.dtype) -> None:
    output, target = torch.randn(3, *SHAPE, requires_grad=True), torch.randn(3, *SHAPE)
    found, plain = squared_error(output.to(dtype), target), (output.to(dtype) - target).square()
    assert torch.equal(found, plain)
    weight = torch.rand(plain.shape)
    found, plain = (torch.autograd.grad((error * weight).sum(), output)[0] for error in (found, plain))
    assert torch.equal(found, plain)


def test_class_and_text_are_also_dropped_alone() -> None:
    config = ObjectiveConfig(label_dropout=0.1, class_dropout=0.2, text_dropout=0.5)
    ids, size = torch.arange(4000), 4000
    condition = Condition(
        label=torch.zeros(size, dtype=torch.int64),
        text=torch.zeros(size, 1, 1),
        text_length=torch.ones(size, dtype=torch.int64),
    )
    draws = Draws(0, 0, ids, torch.zeros_like(ids))
    found = Objective(config).noised(torch.zeros(size, 1, 1, 1, 1), condition, draws).condition
    assert found.label is not None
    assert found.text_length is not None
    no_label, no_text = found.label < 0, found.text_length == 0
    shares = {
        (True, True): 0.1 + 0.9 * 0.2 * 0.5,
        (True, False): 0.9 * 0.2 * 0.5,
        (False, True): 0.9 * 0.8 * 0.5,
    }
    for (label, text), share in shares.items():
        seen = float(((no_label == label) & (no_text == text)).double().mean())
        assert abs(seen - share) < 4 * (share * (1 - share) / size) ** 0.5
    assert config.dropout_of("label") == pytest.approx(0.28)
    plain = Objective(ObjectiveConfig()).noised(torch.zeros(size, 1, 1, 1, 1), condition, draws)
    same = plain.condition.label
    assert same is not None
    assert bool((no_label | (same >= 0)).all())  # the joint draw stays what it was
