"""The diffusion transformer: published counts, initialisation, options and shapes."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from core.batch import Condition
from core.errors import UserError
from models.denoisers.dit import DiT, DiTConfig
from models.denoisers.network import count_parameters

SMALL = DiTConfig(width=32, depth=2, heads=4, num_classes=3)
OPTIONS = [
    {},
    {"learned_sigma": True},
    {"qk_norm": True, "positions": "rotary"},
    {"text_width": 12},
    {"frame_condition": True},
    {"patch": (2, 2, 2)},
    {"num_classes": 0},
]


def _awake(config: DiTConfig, seed: int = 0) -> DiT:
    """Return a network whose every weight is random, none zero."""
    torch.manual_seed(seed)
    model = DiT(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model


def _run(model: DiT, condition: Condition | None = None, shape: tuple[int, int, int] = (2, 4, 6)) -> Tensor:
    x = torch.randn(2, model.config.input_channels, *shape, generator=torch.Generator().manual_seed(1))
    return model(x, torch.tensor([10.0, 900.0]), condition or Condition())


@pytest.mark.parametrize(
    ("name", "count"),
    [("DiT-S/2", 32_865_056), ("DiT-B/2", 130_315_808), ("DiT-L/2", 457_840_672), ("DiT-XL/2", 674_834_720)],
)
def test_presets_have_the_published_number_of_parameters(name: str, count: int) -> None:
    assert count_parameters(DiTConfig.presets[name]) == count
    assert count_parameters(replace(DiTConfig.presets[name], preset=name, positions="rotary")) == count


def test_presets_cover_all_sizes_and_patches() -> None:
    assert set(DiTConfig.presets) == {
        f"DiT-{size}/{patch}" for size in ("S", "B", "L", "XL") for patch in (2, 4, 8)
    }


@pytest.mark.parametrize("options", OPTIONS)
def test_a_fresh_network_answers_zero_and_every_weight_can_learn(options: dict) -> None:
    torch.manual_seed(0)
    model = DiT(replace(SMALL, **options))
    out = _run(model)
    assert out.shape == (2, 8 if model.config.learned_sigma else 4, 2, 4, 6)
    assert out.dtype == torch.float32
    assert (out == 0).all()
    condition = Condition(
        label=torch.tensor([0, -1]),
        text=torch.randn(2, 5, 12),
        text_length=torch.tensor([5, 2]),
        frame_mask=torch.tensor([[1.0, 0.0], [0.0, 1.0]]),
        frame_latents=torch.randn(2, 4, 2, 4, 6),
    )
    awake = _awake(model.config)
    _run(awake, condition).square().sum().backward()
    for name, parameter in awake.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_blocks_are_the_identity_at_first() -> None:
    torch.manual_seed(0)
    block = DiT(replace(SMALL, text_width=12)).blocks[0]
    x = torch.randn(2, 6, 32)
    text = torch.randn(2, 5, 12), torch.tensor([5, 2])
    assert torch.equal(block(x, torch.randn(2, 32), None, text), x)


@pytest.mark.parametrize("options", [{"text_width": 12}, {"frame_condition": True}])
def test_a_new_condition_starts_without_effect(options: dict) -> None:
    torch.manual_seed(0)
    plain = DiT(SMALL)
    with_option = DiT(replace(SMALL, **options))
    weights = {name: torch.randn_like(value) * 0.2 for name, value in plain.state_dict().items()}
    plain.load_state_dict(weights)
    assert with_option.load_state_dict(weights, strict=False).unexpected_keys == []
    condition = Condition(
        text=torch.randn(2, 5, 12), frame_mask=torch.ones(2, 2), frame_latents=torch.randn(2, 4, 2, 4, 6)
    )
    assert torch.equal(_run(plain), _run(with_option, condition))


def test_label_minus_one_is_no_label_and_labels_differ() -> None:
    model = _awake(SMALL)
    assert torch.equal(_run(model), _run(model, Condition(label=torch.tensor([-1, -1]))))
    one, two = (_run(model, Condition(label=torch.tensor([0, label]))) for label in (1, 2))
    assert torch.equal(one[0], two[0])
    assert not torch.allclose(one[1], two[1])


def test_text_past_its_length_and_no_text_have_no_effect() -> None:
    model = _awake(replace(SMALL, text_width=12))
    text = torch.randn(2, 5, 12)
    lengths = torch.tensor([3, 0])
    base = _run(model, Condition(text=text, text_length=lengths))
    other = torch.cat([text[:, :3], torch.randn(2, 2, 12)], dim=1)
    torch.testing.assert_close(_run(model, Condition(text=other, text_length=lengths)), base)
    torch.testing.assert_close(_run(model)[1], base[1])
    assert not torch.allclose(_run(model)[0], base[0])


def test_only_masked_frames_of_the_given_latents_are_seen() -> None:
    model = _awake(replace(SMALL, frame_condition=True))
    latents, mask = torch.randn(2, 4, 2, 4, 6), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    base = _run(model, Condition(frame_mask=mask, frame_latents=latents))
    hidden = torch.cat([latents[:, :, :1], latents[:, :, 1:] + 1], dim=2)
    assert torch.equal(base, _run(model, Condition(frame_mask=mask, frame_latents=hidden)))
    assert not torch.allclose(base, _run(model, Condition(frame_mask=mask, frame_latents=latents + 1)))
    assert not torch.allclose(base, _run(model))


@pytest.mark.parametrize("positions", ["sincos", "rotary"])
def test_one_network_takes_every_grid(positions: str) -> None:
    model = _awake(replace(SMALL, positions=positions))
    for shape in [(1, 8, 8), (5, 8, 8), (1, 2, 14), (3, 6, 4)]:
        assert _run(model, shape=shape).shape == (2, 4, *shape)


@pytest.mark.parametrize("positions", ["sincos", "rotary"])
def test_tokens_know_their_place(positions: str) -> None:
    model = _awake(replace(SMALL, positions=positions))
    x = torch.randn(1, 4, 2, 4, 4)
    time = torch.tensor([100.0])
    swapped = model(x.flip(2), time, Condition()).flip(2)
    assert not torch.allclose(model(x, time, Condition()), swapped, atol=1e-3)


def test_half_precision_is_close_and_answers_in_float32() -> None:
    model = _awake(replace(SMALL, qk_norm=True))
    full = _run(model)
    half = _run(model.bfloat16())
    assert half.dtype == torch.float32
    assert (half - full).norm() / full.norm() < 0.05


def test_seed_decides_the_weights() -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(DiT(SMALL).state_dict()["blocks.0.mlp.up.weight"])
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_label_table_is_not_decayed() -> None:
    tagged = [
        name for name, parameter in DiT(SMALL).named_parameters() if getattr(parameter, "no_decay", False)
    ]
    assert tagged == ["label.table.weight"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 5}, "heads=5: expected a divisor of width=32"),
        ({"width": 30, "heads": 3}, "width=30: expected a multiple of 4"),
        ({"width": 36, "heads": 12, "positions": "rotary"}, "heads=12: expected an even"),
        ({"patch": (1, 0, 2)}, r"patch=\(1, 0, 2\): expected three sizes"),
        ({"preset": "DiT-M/2"}, "preset=DiT-M/2: expected one of DiT-S/2"),
    ],
)
def test_impossible_shapes_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        replace(SMALL, **options)


def test_an_input_that_the_patch_does_not_divide_is_refused() -> None:
    with pytest.raises(UserError, match=r"patch=\(1, 2, 2\): expected divisors of .*\(2, 4, 5\)"):
        _run(DiT(SMALL), shape=(2, 4, 5))


def test_equal_levels_of_all_frames_are_one_level() -> None:
    # In float64: in float32 products of other numbers of rows are rounded otherwise, on some processors.
    model = _awake(replace(SMALL, patch=(2, 2, 2), frame_levels=True)).double()
    x, label = torch.randn(2, SMALL.input_channels, 4, 4, 4), torch.tensor([0, -1])
    time, condition = torch.tensor([3.0, 700.0]), Condition(label=label)
    one = model(x, time, condition)
    torch.testing.assert_close(model(x, time[:, None].expand(2, 2), condition), one, rtol=1e-6, atol=1e-6)
    other = model(x, torch.stack([time, time + 100], 1), condition)
    assert not torch.allclose(other, one, atol=1e-3)


def test_levels_of_frames_need_a_network_made_for_them() -> None:
    x = torch.randn(1, SMALL.input_channels, 2, 4, 4)
    with pytest.raises(UserError, match=r"frame_levels=False: expected true"):
        _awake(SMALL)(x, torch.zeros(1, 2), Condition())
    with pytest.raises(UserError, match=r"frame_levels=True: expected true, and"):
        _awake(replace(SMALL, frame_levels=True))(x, torch.zeros(1, 3), Condition())
