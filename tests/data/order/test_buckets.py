"""Assignment of samples to shapes, and the number of samples in a group."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import UserError
from data.dataset.media_rows import OLD_MEDIA_DTYPE, upgraded
from data.media.formats import MediaError
from data.order.buckets import (
    NO_BUCKET,
    Bucket,
    BucketConfig,
    GroupConfig,
    GroupSizeError,
    assign,
    available_frames,
    check_ranks,
    clip_start,
    group_sizes,
    is_image,
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


@pytest.mark.parametrize(
    ("fps", "stride", "count", "where", "first"),
    [
        (0.0, 1, 49, 0.9, 0),
        (0.0, 1, 40, 0.0, 0),
        (0.0, 1, 40, 0.48, 4),
        (0.0, 1, 40, 0.5, 5),
        (0.0, 1, 40, 1.0, 9),
        (0.0, 3, 17, 1.0, 0),
        (0.0, 3, 16, 0.5, 2),
        (8.0, 1, 9, 1.0, 8),
    ],
)
def test_a_clip_begins_anywhere_that_leaves_room_for_its_frames(fps, stride, count, where, first):
    clips = BucketConfig(fps=fps, stride=stride)
    assert clip_start(media((8, 8, 49, 24.0)), count, clips, where) == first


def test_a_clip_longer_than_its_video_is_refused():
    with pytest.raises(MediaError, match="has 49 frames, too few for 50"):
        clip_start(media((8, 8, 49, 24.0)), 50, BucketConfig(), 0.5)


def test_made_shapes_are_multiples_of_about_the_area_up_to_the_widest():
    samples = media(*[(w, h, 1, 0.0) for w in range(100, 1000, 50) for h in range(100, 1000, 50)])
    middle = [(96, 160), (128, 128), (160, 96)]
    wide = [(64, 224), (64, 256), (96, 160), (96, 192)]
    for aspect, shapes in ((2.0, middle), (4.0, [*wide, (128, 128), *sorted(pair[::-1] for pair in wide)])):
        config = BucketConfig(resolution=128, multiple=32, max_aspect=aspect, min_share=0.0, frames=(1,))
        assert [bucket[1:] for bucket in make_buckets(samples, config)] == shapes
    square = BucketConfig(resolution=10, multiple=32, max_aspect=1.0, min_share=0.0, frames=(1,))
    assert make_buckets(samples, square) == [Bucket(1, 32, 32)]


def test_a_made_bucket_needs_its_share_of_the_samples_with_as_many_frames():
    samples = media(*[(300, 300, 1, 0.0)] * 98, *[(600, 300, 1, 0.0)] * 2, *[(300, 300, 9, 8.0)] * 2)
    for share, expected in ((0.02, 3), (0.021, 2)):
        config = BucketConfig(frames=(1, 9), min_share=share)
        assert len(make_buckets(samples, config)) == expected


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([(64, 64, 1, 0.0)] * 2, r"have: 1 \(2 images\)$"),
        ([(64, 64, 9, 8.0)], r"have: 2 to 9 \(1 video\)$"),
        ([], r"have: there are none$"),
    ],
)
def test_what_samples_offer_is_told_with_the_refusal(rows, expected):
    with pytest.raises(UserError, match=expected):
        make_buckets(media(*rows), BucketConfig(frames=(17,)))


def test_the_least_group_is_one_multiple_and_costs_are_linear_and_quadratic():
    config = GroupConfig(cost_linear=2.0, cost_quadratic=0.5, group_size=16, rank_multiple=8)
    assert sample_cost(10, config) == 2 * 10 + 0.5 * 100
    assert group_sizes([10, 20, 1000], config) == [16, 8, 8]
    assert GroupConfig(cost_linear=0.0).cost_quadratic > 0
    assert GroupConfig(cost_quadratic=0.0).cost_linear > 0


def test_of_buckets_that_keep_as_much_one_that_need_not_enlarge_is_taken_then_the_largest():
    small, large, huge = (Bucket(1, side, side) for side in (64, 128, 256))
    for size, number in ((64, 0), (127, 0), (128, 1), (300, 2), (32, 2)):
        assert assign(media((size, size, 1, 0.0)), [small, large, huge], BucketConfig()).tolist() == [number]
    assert assign(media((64, 64, 1, 0.0)), [small, small], BucketConfig()).tolist() == [0]


def test_two_frames_are_a_clip_and_may_have_a_bucket():
    rows = media((8, 8, 1, 0.0), (8, 8, 2, 8.0))
    assert is_image(rows).tolist() == [True, False]
    assert assign(rows, [Bucket(1, 8, 8), Bucket(2, 8, 8)], BucketConfig()).tolist() == [0, 1]


def test_no_bucket_is_the_largest_number_of_an_index():
    """Datasets and caches hold it: another number would give their samples to a bucket."""
    assert np.iinfo(np.uint16).max == NO_BUCKET


def test_areas_that_agree_to_a_hundredth_are_the_same():
    table = [Bucket(1, 128, 128), Bucket(1, 256, 257)]  # keeps all, and 256 / 257
    assert assign(media((1000, 1000, 1, 0.0)), table, BucketConfig()).tolist() == [1]


@pytest.mark.parametrize(
    ("resolution", "multiple", "aspect", "shapes"),
    [
        (16, 10, 3.0, [(10, 20), (10, 30), (20, 10), (20, 20), (30, 10)]),
        (96, 32, 4.0, [(64, 128), (64, 160), (64, 192), (96, 96), (128, 64), (160, 64), (192, 64)]),
    ],
)
def test_made_shapes_go_from_one_multiple_to_the_widest(resolution, multiple, aspect, shapes):
    samples = media(*[(width, height, 1, 0.0) for height, width in shapes])
    config = BucketConfig(
        resolution=resolution, multiple=multiple, max_aspect=aspect, min_share=0.0, frames=(1,)
    )
    assert [bucket[1:] for bucket in make_buckets(samples, config)] == shapes  # of one sample each
