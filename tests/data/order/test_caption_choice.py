"""Which caption of a sample is drawn. Run: pytest tests/data/order/test_caption_choice.py"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from core.draws import Draws
from core.errors import UserError
from data.order.caption_choice import ANY_CAPTION, CaptionConfig, choose, uniforms

NAMES, GIVEN = ("short", "long", "long"), (1.0, 3.0, 1.0)


@pytest.mark.parametrize(
    ("keys", "weights", "expected"),
    [
        ("", (), [1, 3, 1]),  # as the data say
        ("", (2.0, 1.0), [2, 1, 0]),  # by place, later ones never
        ("", (2.0, 1.0, 4.0, 8.0), [2, 1, 4]),
        ("long", (), [0, 3, 1]),
        ("long", (5.0,), [0, 3.75, 1.25]),  # captions of one name share the weight of the name
        (" long + short ", (1.0, 6.0), [6, 0.75, 0.25]),
        ("other+", (), [0, 0, 0]),
        ("other", (1.0,), [0, 0, 0]),
    ],
)
def test_captions_weigh_by_place_by_name_or_as_the_data_say(keys, weights, expected) -> None:
    choice = CaptionConfig(caption_key=keys, caption_weights=weights)
    assert choice.weigh(NAMES, GIVEN) == expected


def test_a_name_whose_captions_weigh_nothing_is_not_drawn() -> None:
    choice = CaptionConfig(caption_key="short+long", caption_weights=(1.0, 1.0))
    assert choice.weigh(("short", "long"), (0.0, 2.0)) == [0.0, 1.0]


def test_the_only_caption_of_a_sample_is_taken_unless_its_name_is_asked_for() -> None:
    assert CaptionConfig(caption_weights=(0.0, 1.0)).weigh(["short"], [0.0]) == [1.0]
    assert CaptionConfig(caption_key="long").weigh(["short"], [2.0]) == [0.0]
    assert CaptionConfig(caption_key="short").weigh(["short"], [2.0]) == [2.0]


def test_only_without_names_and_weights_may_every_caption_be_drawn() -> None:
    assert ANY_CAPTION.takes_all
    assert not CaptionConfig(caption_key="a").takes_all
    assert not CaptionConfig(caption_weights=(1.0,)).takes_all


@pytest.mark.parametrize("weights", [(-1.0, 2.0), (math.inf, 1.0), (math.nan,), (0.0, 0.0)])
def test_weights_without_a_meaning_are_refused(weights: tuple[float, ...]) -> None:
    with pytest.raises(UserError, match=r"^caption_weights=\[.*\]: expected numbers from 0 on, not all 0"):
        CaptionConfig(caption_weights=weights)


def test_a_weight_may_be_0_and_there_is_one_a_name() -> None:
    assert CaptionConfig(caption_key="a+b", caption_weights=(0.0, 1.0)).caption_keys == ("a", "b")
    assert str(CaptionConfig(caption_key="a")) == "caption_key='a' caption_weights=[]"
    with pytest.raises(UserError, match=r"^caption_weights=\[1.0\]: expected 2 numbers, one a name"):
        CaptionConfig(caption_key="a+b", caption_weights=(1.0,))


@pytest.mark.parametrize(
    ("weights", "u", "place"),
    [
        ([1, 3], 0.24, 0),
        ([1, 3], 0.25, 1),
        ([1, 3], 0.99, 1),
        ([0, 2, 2], 0.0, 1),
        ([2, 0, 2], 0.5, 2),
        ([1, 1, 0], 1.0, 1),  # where rounding carries u to the end: the last that has any weight
        ([0, 0], 0.5, None),
        ([], 0.5, None),
    ],
)
def test_a_place_is_drawn_by_its_share(weights: list[float], u: float, place: int | None) -> None:
    assert choose(weights, u) == place


def test_captions_have_draws_of_their_own() -> None:
    draws = Draws(7, 3, torch.tensor([1, 2]), torch.tensor([0, 1]))
    assert np.array_equal(uniforms(draws), draws.uniform("caption").tolist())
    assert uniforms(draws) != draws.uniform("time").tolist()
