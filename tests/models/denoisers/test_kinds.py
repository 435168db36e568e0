"""Check that every kind of network fulfils the interface for trainer, sampler and benchmarks."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from core.config.loading import describe, from_dict, to_dict
from core.errors import UserError
from models.attention.choice import AttentionHeads
from models.denoisers import kinds
from models.denoisers.kinds import KINDS, config_class
from models.denoisers.network import (
    DenoiserConfig,
    count_parameters,
    example_inputs,
    forward_macs,
    output_channels,
    train_flops,
)
from tests.models.denoisers import conv

# Small ones of every kind: with as little, and with as much, as it can be told.
SMALL: dict[str, tuple[dict[str, Any], ...]] = {
    "dit": (
        {"width": 16, "depth": 2, "heads": 2, "num_classes": 0, "attention": "math"},
        {
            **{"width": 16, "depth": 2, "heads": 2, "num_classes": 3, "text_width": 6, "attention": "math"},
            **{"frame_condition": True, "learned_sigma": True, "input_channels": 3, "positions": "rotary"},
        },
    ),
    "conv": ({"width": 8, "num_classes": 0}, {"width": 8, "num_classes": 3, "input_channels": 3}),
}
SHAPES = ((2, 1, 4, 6), (1, 3, 4, 4))  # (b, T, H, W)
TEXT_TOKENS = 5
CASES = [(kind, number) for kind in {**KINDS, "conv": None} for number in range(len(SMALL.get(kind, ((),))))]


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(kinds, "KINDS", KINDS)
    monkeypatch.setitem(KINDS, "conv", conv.ConvConfig)
    return


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def config(request: pytest.FixtureRequest) -> DenoiserConfig:
    kind, number = request.param
    assert kind in SMALL, f"give this test small networks of model.kind={kind}"
    return from_dict(KINDS[kind], SMALL[kind][number])


def test_a_configuration_is_a_section_that_says_its_kind(config: DenoiserConfig) -> None:
    fields = [line.path for line in describe(type(config))]
    assert fields[0] == "kind"
    assert KINDS[config.kind] is type(config) is config_class(to_dict(config))
    assert dataclasses.replace(config) == from_dict(config_class(to_dict(config)), to_dict(config))  # type: ignore[type-var]
    assert isinstance(type(config)(), type(config)), "its fields have defaults"


@pytest.mark.parametrize("shape", SHAPES)
def test_the_network_answers_example_inputs_in_float32(
    config: DenoiserConfig, shape: tuple[int, ...]
) -> None:
    b, *grid = shape
    inputs = example_inputs(config, (b, config.input_channels, *grid), torch.device("cpu"), TEXT_TOKENS)
    condition = inputs[2]
    assert (condition.text is not None, condition.frame_mask is not None) == (
        config.text_width > 0,
        config.frame_condition,
    )
    for dtype in (torch.float32, torch.bfloat16):
        torch.manual_seed(0)
        out = config.build().to(dtype)(*inputs)
        assert (out.shape, out.dtype) == ((b, output_channels(config), *grid), torch.float32)


@pytest.mark.parametrize("shape", SHAPES)
def test_operations_are_those_that_torch_counts(config: DenoiserConfig, shape: tuple[int, ...]) -> None:
    b, t, h, w = shape
    inputs = example_inputs(config, (b, config.input_channels, t, h, w), torch.device("cpu"), TEXT_TOKENS)
    with FlopCounterMode(display=False) as counter:
        config.build()(*inputs)
    macs = forward_macs(config, (t, h, w), TEXT_TOKENS if config.text_width else 0)
    assert counter.get_total_flops() == 2 * b * macs
    assert train_flops(config, (t, h, w), TEXT_TOKENS if config.text_width else 0) == 6 * macs


def test_more_positions_are_more_tokens_and_a_shape_that_does_not_fit_is_refused(
    config: DenoiserConfig,
) -> None:
    assert 0 < config.tokens((1, 4, 4)) < config.tokens((1, 4, 8)) < config.tokens((3, 4, 8))
    with pytest.raises(UserError, match=r"^\w+="):
        config.tokens((1, 5, 5))


def test_weights_are_drawn_from_the_global_generator_and_counted_without_it(config: DenoiserConfig) -> None:
    torch.manual_seed(0)
    before = torch.get_rng_state()
    count = count_parameters(config)
    assert torch.equal(before, torch.get_rng_state())
    one = config.build()
    torch.manual_seed(0)
    two = config.build()
    assert sum(p.numel() for p in one.parameters()) == count
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), two.parameters(), strict=True))


def test_blocks_hold_most_of_the_weights_and_heads_are_known_beforehand(config: DenoiserConfig) -> None:
    model = config.build()
    assert len(model.blocks) > 0
    assert {id(p) for p in model.blocks.parameters()} < {id(p) for p in model.parameters()}
    heads = config.attention_heads(2)
    assert heads is None or (isinstance(heads, AttentionHeads) and heads.sequence_ranks == 2)
    model.use_attention({})


def test_every_kind_that_there_is_has_small_networks_here() -> None:
    assert set(SMALL) == set(KINDS)


def test_a_record_of_an_unknown_kind_is_refused_and_one_without_a_kind_is_a_dit() -> None:
    assert config_class({"width": 8}) is KINDS["dit"]
    with pytest.raises(UserError, match=r"^kind=mamba: expected dit or conv$"):
        config_class({"kind": "mamba"})


def test_a_network_shows_the_tokens_of_its_blocks(config: DenoiserConfig) -> None:
    torch.manual_seed(0)
    model = config.build()
    assert len(config.hidden_widths) in (0, len(model.blocks))
    shape = (1, config.input_channels, 3, 4, 4)
    inputs = example_inputs(config, shape, torch.device("cpu"), TEXT_TOKENS)
    for number, width in enumerate(config.hidden_widths):
        prediction, tokens = model(*inputs, hidden=number)
        assert torch.equal(prediction, model(*inputs))
        assert tokens.ndim == 5
        assert tokens[..., 0].numel() == config.tokens((3, 4, 4))
        assert tokens.shape[-1] == width
