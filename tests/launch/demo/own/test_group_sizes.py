"""A demo on a folder trains with the groups that its choice of steps reckons with."""

from __future__ import annotations

from pathlib import Path

import pytest

from core.config.loading import load
from data.order.buckets import GroupConfig, group_sizes
from launch.demo.own.choice import Choice
from launch.demo.own.folder_chain import OwnChain
from launch.demo.own.group_sizes import ENCODER_GROUP, TRAIN_GROUP, group_multiple


@pytest.mark.parametrize(("ranks", "multiple"), [(1, 4), (2, 4), (3, 6), (8, 8)])
def test_ranks_share_every_group_evenly(ranks: int, multiple: int) -> None:
    assert group_multiple(ranks) == multiple


@pytest.mark.parametrize("size", [ENCODER_GROUP, TRAIN_GROUP])
def test_groups_do_not_grow_to_the_recipes_multiple(size: int) -> None:
    chain = OwnChain(Path("x"), 0, 2, False, source="mine")
    both: Choice = {"images": 16, "clips": 4}  # type: ignore[typeddict-item]
    fields = chain._groups(both, size)
    assert set(fields) == {"data.group_size", "data.rank_multiple"}
    words = [f"{name.removeprefix('data.')}={value}" for name, value in fields.items()]
    assert group_sizes([64, 5 * 64], load(GroupConfig, [], words)) == [size, 4]
    images: Choice = {**both, "clips": 0}
    assert chain._groups(images, size) == {**fields, "data.video_share": "null", "data.groups_per_step": 1}
