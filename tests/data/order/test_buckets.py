"""Which sample goes to which shape, and how many samples make a group."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import UserError
from data.dataset.media_rows import OLD_MEDIA_DTYPE, upgraded
from data.order.buckets import (
    NO_BUCKET,
    Bucket,
    BucketConfig,
    GroupConfig,
    GroupSizeError,
    assign,
    available_frames,
    check_ranks,
    group_sizes,
    make_buckets,
    sample_cost,
)


def media(*rows: tuple[int, int, int, float]) -> np.ndarray:
    return upgraded(np.array(list(rows), OLD_MEDIA_DTYPE))


TABLE = [
    Bucket(1, 256, 256),
    Bucket(1, 512, 512),
    Bucket(1, 192, 352),
    Bucket(5, 256, 256),
    Bucket(17, 256, 256),
]


@pytest.mark.parametrize(
    ("width", "height", "frames", "bucket"),
    [
        (300, 300, 1, 0),  # the larger square would enlarge it
        (600, 600, 1, 1),
        (64, 64, 1, 1),  # every square enlarges it: the largest
        (704, 384, 1, 2),
        (300, 300, 20, 4),
        (300, 300, 16, 3),
        (300, 300, 4, NO_BUCKET),
    ],
)
def test_a_sample_goes_to_the_bucket_that_crops_least(width, height, frames, bucket):
    assert assign(media((width, height, frames, 24.0)), TABLE, BucketConfig()).tolist() == [bucket]


@given(st.integers(1, 4000), st.integers(1, 4000))
def test_no_other_bucket_keeps_more_of_a_picture(width, height):
    table = [Bucket(1, h, w) for h, w in [(128, 128), (96, 160), (160, 96), (64, 256), (256, 256)]]
    chosen = int(assign(media((width, height, 1, 0.0)), table, BucketConfig())[0])

    def kept(bucket: Bucket) -> float:
        scale = max(bucket.height / height, bucket.width / width)
        return bucket.height * bucket.width / (height * width * scale**2)

    assert kept(table[chosen]) >= max(kept(bucket) for bucket in table) - 0.0101


def test_images_do_not_go_to_video_buckets():
    assert assign(media((64, 64, 1, 0.0)), [Bucket(17, 64, 64)], BucketConfig()).tolist() == [NO_BUCKET]


@pytest.mark.parametrize(
    ("fps", "stride", "frames"), [(0.0, 1, 49), (8.0, 1, 17), (8.0, 2, 9), (0.0, 3, 17), (24.0, 7, 7)]
)
def test_frames_available_follow_rate_and_stride(fps, stride, frames):
    config = BucketConfig(fps=fps, stride=stride)
    assert available_frames(media((8, 8, 49, 24.0), (8, 8, 1, 0.0)), config).tolist() == [frames, 1]


def test_made_buckets_have_the_area_and_serve_what_is_there():
    samples = media(*[(640, 480, 1, 0.0)] * 90, *[(480, 640, 1, 0.0)] * 60, *[(640, 360, 30, 24.0)] * 2)
    made = make_buckets(samples, BucketConfig(resolution=256, multiple=32, frames=(1, 17)))
    assert {bucket.frames for bucket in made} == {1, 17}  # two clips of 152 samples are all the clips
    assert all(side % 32 == 0 for bucket in made for side in bucket[1:])
    assert all(0.8 < bucket.height * bucket.width / 256**2 < 1.25 for bucket in made)
    assert (assign(samples, made, BucketConfig()) != NO_BUCKET).all()


def test_rare_shapes_get_no_made_bucket_of_their_own():
    samples = media(*[(300, 300, 1, 0.0)] * 1000, (300, 600, 1, 0.0))
    assert make_buckets(samples, BucketConfig()) == [Bucket(1, 256, 256)]


def test_a_table_that_serves_nothing_is_refused():
    samples = media((64, 64, 1, 0.0), (64, 64, 9, 8.0), (64, 64, 6, 8.0))
    expected = r"numbers of frames that samples have: 1 \(1 image\), 2 to 9 \(2 videos\)"
    with pytest.raises(UserError, match=rf"^frames=\[17\]: expected {expected}"):
        make_buckets(samples, BucketConfig(frames=(17,)))


def test_given_shapes_are_taken_as_they_are():
    config = BucketConfig(shapes=((1, 32, 48), (5, 32, 32), (1, 32, 48)))
    assert make_buckets(media((9, 9, 1, 0.0)), config) == [Bucket(1, 32, 48), Bucket(5, 32, 32)]


@given(
    st.lists(st.integers(1, 100_000), min_size=1, max_size=8),
    st.integers(1, 4096),
    st.sampled_from([1, 8, 24]),
)
def test_groups_cost_about_the_same(tokens, size, multiple):
    config = GroupConfig(group_size=size, rank_multiple=multiple)
    sizes = group_sizes(tokens, config)
    budget = size * sample_cost(min(tokens), config)
    for count, n in zip(tokens, sizes, strict=True):
        assert n % multiple == 0
        assert n == multiple or abs(n * sample_cost(count, config) - budget) <= (
            0.5 * multiple * sample_cost(count, config) * (1 + 1e-9)
        )


def test_group_cost_replaces_group_size():
    config = GroupConfig(group_cost=1024 * 64, cost_quadratic=0.0)
    assert group_sizes([64, 256, 1024, 10**7], config) == [1024, 256, 64, 8]


def test_ranks_that_do_not_divide_a_group_are_told_the_equation():
    config = GroupConfig(rank_multiple=8)
    check_ranks(["a", "b"], [64, 24], 8, config)
    with pytest.raises(
        GroupSizeError, match=r"bucket b has 3 x rank_multiple = 3 x 8 = 24 .* 24 = 1 x 16 \+ 8"
    ):
        check_ranks(["a", "b"], [64, 24], 16, config)


def test_a_cost_of_nothing_is_refused():
    with pytest.raises(UserError, match="cost_linear"):
        GroupConfig(cost_linear=0, cost_quadratic=0)
