"""Kinds of guidance: identities, the published formulas, and samples that do not depend on each other."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from core.batch import Condition
from core.config.loading import load
from core.diffusion.generating import sample
from core.diffusion.guidance.branches import Contrast
from core.diffusion.guidance.mixing import Guidance, GuidanceKind
from core.diffusion.paths.kinds import make_path
from core.diffusion.predictions import Prediction, target, to_data
from core.diffusion.sampling import SamplerConfig
from core.draws import Draws
from core.errors import UserError

ALPHA, SIGMA = 0.6, 0.8
KINDS: tuple[Prediction, ...] = get_args(Prediction)


def pair() -> tuple[Tensor, Tensor, Tensor]:
    """Return a state, and outputs of data prediction with and without the condition."""
    made = torch.randn(3, 2, 4, 1, 3, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return made[0], made[1], made[2]


def mixed(guidance: Guidance, scale: float, kind: Prediction = "data") -> Tensor:
    """Return the data that guidance gives where the network makes this prediction of them."""
    x, given, none = pair()

    def out(data: Tensor) -> Tensor:
        return target(kind, data, (x - ALPHA * data) / SIGMA, ALPHA, SIGMA)

    def data(output: Tensor) -> Tensor:
        return to_data(kind, output, x, ALPHA, SIGMA)

    return data(guidance.mix([out(given), out(none)], [Contrast(1, scale)], data, out))


@pytest.mark.parametrize("guidance", [Guidance(), Guidance("apg"), Guidance(rescale=0.7)])
def test_what_acts_on_the_data_is_alike_in_every_prediction(guidance: Guidance) -> None:
    expected = mixed(guidance, 3.0)
    for kind in (kind for kind in KINDS if kind != "posterior_mean"):
        torch.testing.assert_close(mixed(guidance, 3.0, kind), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", get_args(GuidanceKind))
def test_scale_one_is_the_output_with_the_condition(kind: GuidanceKind) -> None:
    _, given, _ = pair()
    torch.testing.assert_close(mixed(Guidance(kind, rescale=0.5), 1.0), given)


def test_a_linear_mix_in_all_channels_needs_no_data() -> None:
    assert Guidance().is_linear
    assert not Guidance("apg").is_linear
    assert not Guidance(channels=3).is_linear


def test_rescaled_data_have_the_spread_of_unguided_ones() -> None:
    _, given, none = pair()
    guided = given + 4.0 * (given - none)
    whole, half = mixed(Guidance(rescale=1.0), 5.0), mixed(Guidance(rescale=0.5), 5.0)
    torch.testing.assert_close(whole.std((1, 2, 3, 4)), given.std((1, 2, 3, 4)))
    torch.testing.assert_close(half, (whole + guided) / 2)


def test_only_the_first_channels_are_guided() -> None:
    _, given, none = pair()
    found = mixed(Guidance(channels=3), 5.0)
    torch.testing.assert_close(found[:, :3], (given + 4.0 * (given - none))[:, :3])
    torch.testing.assert_close(found[:, 3:], given[:, 3:])


def test_projected_guidance_moves_at_right_angles_to_the_data_and_no_further_than_its_limit() -> None:
    _, given, _ = pair()
    moved = mixed(Guidance("apg"), 5.0) - given
    assert float((moved * given).sum((1, 2, 3, 4)).abs().max()) < 1e-10
    assert float(moved.square().mean((1, 2, 3, 4)).sqrt().min()) > 1
    near = mixed(Guidance("apg", limit=0.01), 5.0) - given
    assert float(near.square().mean((1, 2, 3, 4)).sqrt().max()) <= 4 * 0.01 + 1e-12


def test_the_scaled_output_without_condition_is_the_nearest_to_the_other() -> None:
    """cfg_zero at scale 0 is that multiple of it, so that what is left is orthogonal to it."""
    _, given, none = pair()
    nearest = mixed(Guidance("cfg_zero"), 0.0)
    assert float(((given - nearest) * none).sum((1, 2, 3, 4)).abs().max()) < 1e-10


def network(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
    assert condition.label is not None
    label = (condition.label + 1).view(-1, 1, 1, 1, 1)
    return x * (0.3 - 0.02 * label) - 0.1 * label * x.cumsum(-1)


@pytest.mark.parametrize(
    "fields",
    [
        {"guidance_kind": "apg"},
        {"guidance_kind": "cfg_zero"},
        {"guidance_rescale": 0.7},
        {"guidance_channels": 1},
    ],
)
def test_a_guided_sample_does_not_depend_on_its_batch(fields: dict[str, object]) -> None:
    config = SamplerConfig(steps=4, guidance=3.0, **fields)  # type: ignore[arg-type]

    def generate(ids: list[int]) -> Tensor:
        rows = torch.tensor(ids)
        draws = Draws(0, 0, rows, torch.zeros_like(rows))
        path = make_path("rectified_flow")
        return sample(network, (len(ids), 2, 1, 3, 3), Condition(label=rows), config, path, "flow", draws)

    whole = generate([3, 1, 4])
    torch.testing.assert_close(whole[1:2], generate([1]), rtol=1e-5, atol=1e-6)
    assert whole.isfinite().all()
    plain = SamplerConfig(steps=4, guidance=3.0)
    rows = torch.tensor([3, 1, 4])
    other = sample(
        network,
        (3, 2, 1, 3, 3),
        Condition(label=rows),
        plain,
        make_path("rectified_flow"),
        "flow",
        Draws(0, 0, rows, torch.zeros_like(rows)),
    )
    assert not torch.allclose(whole, other)


def test_a_limit_belongs_to_projected_guidance() -> None:
    with pytest.raises(UserError, match=r"guidance_limit=1\.0: expected 0 with guidance_kind=cfg"):
        load(SamplerConfig, overrides=["guidance_limit=1"])
