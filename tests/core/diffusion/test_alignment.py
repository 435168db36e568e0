"""The alignment of a block with a picture encoder's features: closed forms, gradients, schedule."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from core.batch import Condition
from core.diffusion.alignment.aligned import Alignment, cosine_distance, on_grid, spatially_normalised
from core.diffusion.alignment.config import AlignmentConfig, block_of, last_step, weight_at
from core.diffusion.alignment.projectors import make_projector
from core.diffusion.objective import Objective
from core.diffusion.objectives.config import ObjectiveConfig
from core.diffusion.objectives.mean_flow import MeanFlowConfig
from core.draws import Draws
from core.errors import UserError
from core.losses import Losses
from models.denoisers.dit import DiT, DiTConfig


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_distance_is_one_minus_the_cosine_whatever_the_lengths() -> None:
    features = normal(3, 2, 4, 4, 5)
    lengths = normal(3, 2, 4, 4, 1, seed=1).abs() + 0.1
    torch.testing.assert_close(cosine_distance(features * lengths, features), torch.zeros(3))
    torch.testing.assert_close(cosine_distance(-features * lengths, features), torch.full((3,), 2.0))
    across = torch.stack([-features[..., 1], features[..., 0]], -1)
    torch.testing.assert_close(cosine_distance(across, features[..., :2]), torch.ones(3))


def test_the_gradient_of_the_distance_is_the_closed_form() -> None:
    projected, features = normal(2, 1, 2, 3, 4).double().requires_grad_(), normal(2, 1, 2, 3, 4, seed=1)
    cosine_distance(projected, features).sum().backward()
    p, f = projected.detach(), features.double()
    p_length, f_length = p.norm(dim=-1, keepdim=True), f.norm(dim=-1, keepdim=True)
    cosine = (p * f).sum(-1, keepdim=True) / (p_length * f_length)
    wanted = -(f / f_length - cosine * p / p_length) / p_length / 6  # of 6 tokens
    torch.testing.assert_close(projected.grad, wanted, rtol=1e-5, atol=1e-7)


def test_features_come_to_the_grid_of_tokens_by_means_and_between_centres() -> None:
    features = normal(2, 4, 6, 6, 3)
    assert on_grid(features, (4, 6, 6)) is features
    means = features.unflatten(1, (2, 2)).unflatten(3, (3, 2)).unflatten(5, (3, 2)).mean((2, 4, 6))
    torch.testing.assert_close(on_grid(features, (2, 3, 3)), means)
    ramp = torch.tensor([0.0, 1.0]).reshape(1, 1, 1, 2, 1)
    torch.testing.assert_close(
        on_grid(ramp, (1, 1, 4)).flatten(), torch.tensor([0.0, 0.25, 0.75, 1.0])
    )  # half-pixel centres
    mixed = on_grid(features, (8, 3, 7))
    assert mixed.shape == (2, 8, 3, 7, 3)
    torch.testing.assert_close(on_grid(torch.ones(1, 2, 5, 3, 2), (3, 2, 7)), torch.ones(1, 3, 2, 7, 2))


def test_spatial_normalisation_takes_what_all_patches_of_a_picture_share() -> None:
    features, shift = normal(2, 3, 4, 4, 5), normal(2, 3, 1, 1, 5, seed=1)
    found = spatially_normalised(features + 9 * shift)
    torch.testing.assert_close(found, spatially_normalised(features), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found.mean((2, 3)), torch.zeros(2, 3, 5), rtol=0, atol=1e-5)
    torch.testing.assert_close(found.std((2, 3), correction=0), torch.ones(2, 3, 5), rtol=1e-4, atol=0)
    kept = spatially_normalised(features, 0.0)
    deviation = features.std((2, 3), correction=0, keepdim=True)
    torch.testing.assert_close(kept, features / deviation, rtol=1e-4, atol=1e-5)


def test_the_weight_ends_at_a_step_or_a_share_and_may_fall_until_then() -> None:
    constant = AlignmentConfig(weight=2.0)
    assert last_step(constant, 10) is None
    assert {weight_at(constant, step, 10) for step in (0, 9, 2**32 - 1)} == {2.0}
    cut = AlignmentConfig(weight=2.0, until=0.4)
    assert [weight_at(cut, step, 10) for step in (0, 3, 4, 9)] == [2, 2, 0, 0]
    assert last_step(AlignmentConfig(until=7), 10) == 7
    linear = AlignmentConfig(weight=2.0, until=4, fall="linear")
    assert [weight_at(linear, step, 10) for step in range(6)] == [2, 1.5, 1, 0.5, 0, 0]
    cosine = AlignmentConfig(weight=2.0, until=4, fall="cosine")
    assert weight_at(cosine, 2, 10) == pytest.approx(1.0)
    with pytest.raises(UserError, match=r"until=1\.5: expected a whole number of steps, or a share below 1"):
        AlignmentConfig(until=1.5)
    with pytest.raises(UserError, match="fall=linear: expected cut with until=0"):
        AlignmentConfig(fall="linear")


def test_the_block_is_a_third_of_all_or_the_one_that_is_named() -> None:
    assert [block_of(AlignmentConfig(), blocks) for blocks in (1, 2, 12, 24)] == [0, 0, 3, 7]
    assert block_of(AlignmentConfig(block=12), 12) == 11
    with pytest.raises(UserError, match="block=13: expected at most 12"):
        block_of(AlignmentConfig(block=13), 12)


def test_projectors_keep_places() -> None:
    tokens = normal(2, 3, 5, 4, 6)
    mlp = make_projector(AlignmentConfig(projector_width=7), 6, 9)
    torch.testing.assert_close(mlp(tokens)[1, 2, 3, 1], mlp(tokens[1:, 2:, 3:4, 1:2])[0, 0, 0, 0])
    conv = make_projector(AlignmentConfig(projector="conv"), 6, 9)
    assert conv(tokens).shape == (2, 3, 5, 4, 9)
    torch.testing.assert_close(conv(tokens)[0, 1, 2, 2], conv(tokens[:1, 1:2, 1:4, 1:4])[0, 0, 1, 1])
    assert not torch.equal(conv(tokens)[0, 0, 0, 0], conv(tokens[:, :, 1:])[0, 0, 0, 0])


def network(two_times: bool = False) -> DiT:
    torch.manual_seed(0)
    known: Any = {"num_classes": 0, "attention": "math", "input_channels": 4, "two_times": two_times}
    model = DiT(DiTConfig(width=16, depth=3, heads=2, **known))
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def trained(alignment: AlignmentConfig | None, step: int = 0) -> tuple[Losses, dict[str, Tensor]]:
    """Return the losses of four pictures, and the gradients of the network and of the projector."""
    known = Alignment(alignment, 3, 16, 5, 10) if alignment else None
    objective, model = Objective(ObjectiveConfig(), alignment=known), network()
    if (own := objective.own_parameters()) is not None:
        objective.use(own)
    draws = Draws(0, step, torch.arange(4), torch.arange(4))
    features = normal(4, 1, 6, 6, 5, seed=3).half()
    losses = objective.loss(model, normal(4, 4, 1, 8, 8), Condition(), draws, features)
    losses.loss.mean().backward()
    named = [*model.named_parameters(), *(own.named_parameters() if own else ())]
    return losses, {name: p.grad for name, p in named if p.grad is not None}


@pytest.mark.parametrize("step", [0, 5])
def test_a_weight_of_nothing_and_one_that_ended_leave_every_bit(step: int) -> None:
    plain, gradients = trained(None, step)
    settings = AlignmentConfig(weight=0.0) if step == 0 else AlignmentConfig(until=5)
    losses, found = trained(settings, step)
    assert torch.equal(losses.loss, plain.loss)
    assert all(torch.equal(found[name], gradient) for name, gradient in gradients.items())
    assert bool(losses.extras["alignment"].isnan().all()) == (step > 0)  # what has ended is not computed
    assert any(name.startswith("parts.projector") for name in found) == (step == 0)


def test_the_alignment_is_added_by_its_weight_and_reaches_no_later_block() -> None:
    plain, before = trained(None)
    losses, found = trained(AlignmentConfig(weight=0.7, block=2, projector_width=8, spatial_norm=True))
    assert torch.equal(losses.extras["squared_error"], plain.loss)
    torch.testing.assert_close(losses.loss, plain.loss + 0.7 * losses.extras["alignment"])
    changed = {name for name, gradient in before.items() if not torch.equal(found[name], gradient)}
    assert {name for name in before if name.startswith(("blocks.0.", "blocks.1.", "patches."))} <= changed
    assert not any(name.startswith(("blocks.2.", "final")) for name in changed)
    assert all(bool(g.any()) for name, g in found.items() if name.startswith("parts.projector"))


FEW_STEPS: dict[str, Any] = {
    "jvp": {"kind": "mean_flow", "mean_flow": MeanFlowConfig(instant_share=0.5)},
    "difference": {
        "kind": "mean_flow",
        "mean_flow": MeanFlowConfig(instant_share=0.5, derivative="difference"),
    },
    "consistency": {"kind": "consistency"},
    "distillation": {"kind": "distillation"},
}


@pytest.mark.parametrize("name", FEW_STEPS)
def test_an_objective_of_few_steps_learns_from_the_sum_of_both(name: str) -> None:
    """The alignment is of the tokens at the noised input of the step, and of no other evaluation."""
    wanted, weight = ObjectiveConfig(**FEW_STEPS[name]), 0.7
    config = AlignmentConfig(weight=weight, block=2, projector_width=8)
    x0, features = normal(4, 4, 1, 8, 8), normal(4, 1, 6, 6, 5, seed=3).half()
    draws = Draws(0, 0, torch.arange(4), torch.arange(4))

    def gradients(alignment: Alignment | None, alone: bool = False) -> tuple[Losses, dict[str, Tensor]]:
        objective = Objective(wanted, alignment=alignment)
        torch.manual_seed(1)
        own = objective.own_parameters()
        if own is not None:
            objective.use(own)
        objective.learn_from(network(two_times=wanted.kind == "mean_flow").requires_grad_(False))
        model = network(two_times=wanted.kind == "mean_flow")
        noised = objective.noised(x0, Condition(), draws)
        if alone:
            assert own is not None
            assert noised.end is not None
            times = torch.stack([noised.time_input, objective.path.time_input(noised.end)], 1)
            told = times if wanted.kind == "mean_flow" else noised.time_input
            _, tokens = model(noised.x_t, told, Condition(), hidden=1)
            losses = Losses(weight * cosine_distance(own("projector", tokens), features))
        else:
            losses = objective.loss_of(model, noised, features)
        losses.loss.mean().backward()
        named = [*model.named_parameters(), *(own.named_parameters() if own else ())]
        return losses, {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in named}

    aligned = Alignment(config, 3, 16, 5, 10)
    (whole, both), (plain, first), (distance, second) = (
        gradients(aligned),
        gradients(None),
        gradients(aligned, alone=True),
    )
    torch.testing.assert_close(whole.loss, plain.loss + distance.loss)
    torch.testing.assert_close(weight * whole.extras["alignment"], distance.loss)
    assert both.keys() == second.keys()
    for part, gradient in both.items():
        torch.testing.assert_close(
            gradient, first.get(part, torch.zeros_like(gradient)) + second[part], rtol=1e-4, atol=1e-6
        )
    assert all(bool(second[part].any()) for part in second if part.startswith(("parts.", "blocks.1.")))
