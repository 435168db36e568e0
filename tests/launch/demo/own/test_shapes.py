"""Shapes for the pictures of a folder: nobody loses more than to the nearest, and few are made."""

from __future__ import annotations

import numpy as np
import pytest

from data.order.buckets import Bucket, BucketConfig
from data.order.fitting import area_lost
from launch.demo.own.shapes import MOST_SHAPES, choose_shapes, treatment
from tests.launch.demo.own.test_choice import BOTH, FILMS, PHOTOS, media

CLIPS = BucketConfig()


def test_area_lost_is_that_of_the_larger_side() -> None:
    pictures = media((200, 100, 1, 0), (100, 100, 1, 0), (100, 200, 1, 0))
    assert area_lost(pictures, Bucket(1, 32, 64)).tolist() == pytest.approx([0, 0.5, 0.75])


@pytest.mark.parametrize("resolution", [32, 64, 96, 128, 256])
def test_usual_photographs_lose_little(resolution: int) -> None:
    shapes = choose_shapes(PHOTOS, 1, resolution, CLIPS)
    assert len(shapes) <= 3  # there are three aspect ratios
    found = treatment(PHOTOS, shapes, CLIPS)
    assert found["lost_most"] < (0.25 if resolution < 64 else 0.06)  # sides are multiples of 8
    assert found["unused"] == found["enlarged"] == 0
    areas = np.array([h * w for _, h, w in shapes]) / resolution**2
    assert areas.min() > 0.8
    assert areas.max() < 1.25


def test_many_ratios_get_few_shapes_and_wide_ones_are_not_forgotten() -> None:
    random = np.random.default_rng(0)
    ratios = np.exp(random.uniform(-1.2, 1.2, 500))
    many = media(*[(int(1000 * ratio**0.5), int(1000 / ratio**0.5), 1, 0) for ratio in ratios])
    shapes = choose_shapes(many, 1, 96, CLIPS)
    assert len(shapes) == MOST_SHAPES
    found = treatment(many, shapes, CLIPS)
    assert found["lost_mean"] < 0.15
    assert found["lost_most"] < 0.4


def test_images_and_clips_have_shapes_of_their_own() -> None:
    shapes = choose_shapes(BOTH, 17, 64, CLIPS)
    assert {shape.frames for shape in shapes} == {1, 17}
    assert {shape.frames for shape in choose_shapes(FILMS, 9, 64, CLIPS)} == {9}


def test_what_fits_nowhere_and_what_is_enlarged_is_counted() -> None:
    mixed = np.concatenate([FILMS, media((1280, 720, 3, 30), (32, 18, 200, 30))])
    shapes = choose_shapes(mixed, 17, 64, CLIPS)
    found = treatment(mixed, shapes, CLIPS)
    assert (found["samples"], found["unused"], found["enlarged"]) == (32, 1, 1)
    assert found["shrunk"] == pytest.approx(720 / shapes[0].height, rel=0.2)
