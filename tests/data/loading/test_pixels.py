"""Pictures and clips decoded while training: any world sees the same, and damaged samples weigh nothing."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.distributed.ranks import World
from core.errors import UserError, WorkError
from data.dataset.faults import require_no_program_errors
from data.dataset.index import Dataset
from data.dataset.media_rows import media_table
from data.dataset.quarantine import Quarantine
from data.dataset.retry import Retry
from data.loading.pixels import PixelConfig, PixelLoader
from data.media.film.times import Times
from data.media.formats import Media, MediaError, MediaLimits, media_member
from data.media.images import decode_image, decode_video, resize_crop
from data.media.video import frame_numbers
from data.order.buckets import Bucket, BucketConfig, available_frames, clip_start
from data.raw.decoding import in_part, read_pixels
from tests.data.caches import make_cache
from tests.data.raw_datasets import damage, make_raw

SHAPES = ((1, 16, 16), (5, 16, 16))
CONFIG = PixelConfig(
    buckets=BucketConfig(shapes=SHAPES), group_size=8, groups_per_step=2, shuffle_shards=2, flip=True
)


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Dataset:
    return make_raw(tmp_path_factory.mktemp("raw"))


def world(rank: int = 0, size: int = 1) -> World:
    return World(rank, size, rank, torch.device("cpu"))


def test_a_step_is_the_same_for_any_world_and_micro_batch(raw):
    whole = {}
    for batch in PixelLoader(raw, CONFIG, world(), 3).load(11):
        for i, position in enumerate(batch.position.tolist()):
            whole[position] = (batch.id[i], batch.condition.label[i], batch.x[i])
    seen = set()
    for rank in range(2):
        loader = PixelLoader(raw, replace(CONFIG, threads=2), world(rank, 2), 3, micro_batch=3)
        for batch in loader.load(11):
            assert len(batch) <= 3
            for i, position in enumerate(batch.position.tolist()):
                sample, label, x = whole[position]
                assert (batch.id[i], batch.condition.label[i]) == (sample, label)
                assert torch.equal(batch.x[i], x)
                seen.add(position)
    assert seen == whole.keys()


def test_batches_hold_what_plain_decoding_gives(raw):
    config = replace(CONFIG, flip=False, clip="centre")
    shapes = set()
    for step in range(4):
        for batch in PixelLoader(raw, config, world(), 0).load(step):
            shapes.add(tuple(batch.x.shape[1:]))
            assert batch.weight.tolist() == [1.0] * len(batch)
            for row, label, x in zip(batch.id.tolist(), batch.condition.label.tolist(), batch.x, strict=True):
                members, media = raw.read(row), raw.media[row]
                if media["frames"] == 1:
                    pixels = resize_crop(decode_image(members["png"])[None], 16, 16)
                else:
                    start = (int(media["frames"]) - 5 + 1) // 2
                    pixels = decode_video(members["mp4"], size=(16, 16), seek=False)[start : start + 5]
                assert (np.moveaxis(x.numpy(), 0, -1) == pixels).all()
                assert label == raw.index["label"][row]
    assert shapes == {(3, 1, 16, 16), (3, 5, 16, 16)}


def test_clips_and_flips_are_drawn_anew_each_step(raw):
    row = int(np.flatnonzero(raw.media["frames"] == 9)[0])
    starts = {
        read_pixels(raw, row, Bucket(5, 16, 16), BucketConfig(), MediaLimits(), where=where).tobytes()
        for where in np.linspace(0, 1, 50)
    }
    assert len(starts) == 5
    seen = [
        x
        for step in range(12)
        for batch in PixelLoader(raw, CONFIG, world(), 0).load(step)
        for sample, x in zip(batch.id.tolist(), batch.x, strict=True)
        if sample == row
    ]
    assert len(seen) > 5
    assert len({x.numpy().tobytes() for x in seen}) > 3


def test_rate_and_stride_choose_the_frames(raw):
    row = int(np.flatnonzero(raw.media["frames"] == 9)[0])
    data = media_member(raw.read(row))
    clips = BucketConfig(stride=2)
    pixels = read_pixels(raw, row, Bucket(5, 32, 48), clips, MediaLimits())
    assert (pixels == decode_video(data)[::2]).all()
    with pytest.raises(MediaError, match="too few"):
        read_pixels(raw, row, Bucket(6, 32, 48), clips, MediaLimits())


@pytest.fixture
def damaged(tmp_path) -> tuple[Dataset, int]:
    dataset = make_raw(tmp_path, images=6, clips=0)
    damage(dataset, 2)
    return dataset, 2


def test_a_damaged_sample_keeps_its_slot_with_weight_0(damaged, tmp_path, capsys):
    dataset, row = damaged
    quarantine = Quarantine(tmp_path / "quarantine.jsonl", total=6, budget=1)
    loader = PixelLoader(dataset, replace(CONFIG, quarantine_budget=1), world(), 0, quarantine=quarantine)
    for _ in range(2):
        for batch in loader.load(0):
            assert batch.weight.tolist() == [float(sample != row) for sample in batch.id.tolist()]
    assert [(entry.id, entry.stage) for entry in quarantine.entries] == [(row, "decode")]
    assert capsys.readouterr().err.count(f"sample {row} is set aside") == 1


def test_an_error_of_the_program_sets_its_sample_aside_and_fails_the_job_at_its_end(
    raw, tmp_path, monkeypatch
):
    def read(dataset, row, *arguments, **settings):
        if row == 3:
            raise KeyError("rotation")
        return read_pixels(dataset, row, *arguments, **settings)

    monkeypatch.setattr("data.loading.pixels.read_pixels", read)
    quarantine = Quarantine(tmp_path / "quarantine.jsonl", total=len(raw), budget=1)
    loader = PixelLoader(raw, replace(CONFIG, quarantine_budget=1), world(), 0, quarantine=quarantine)
    seen = set()
    for step in range(4):
        for batch in loader.load(step):
            assert batch.weight.tolist() == [float(sample != 3) for sample in batch.id.tolist()]
            seen |= set(batch.id.tolist())
    assert 3 in seen
    assert "KeyError: 'rotation'" in (tmp_path / "logs" / "sample-000000003.txt").read_text()
    with pytest.raises(WorkError, match=r"1 sample set aside by errors of this program.*KeyError"):
        require_no_program_errors(tmp_path)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("device"), UserError("source", "x", "y")])
def test_what_concerns_more_than_a_sample_ends_training(raw, monkeypatch, error):
    def read(*arguments, **settings):
        raise error

    monkeypatch.setattr("data.loading.pixels.read_pixels", read)
    monkeypatch.setattr("data.dataset.faults.RETRY", Retry(attempts=1))
    with pytest.raises(type(error)):
        PixelLoader(raw, CONFIG, world(), 0).load(0)


def test_the_budget_stops_the_job(damaged):
    dataset, _ = damaged
    with pytest.raises(WorkError, match="1 of 6 samples cannot be used: over quarantine_budget=0"):
        PixelLoader(dataset, replace(CONFIG, quarantine_budget=0.0), world(), 0).load(0)


def test_held_out_samples_are_the_rest_of_the_trained_ones(raw):
    def ids(part: str) -> set[int]:
        loader = PixelLoader(raw, replace(CONFIG, part=part, held_out=0.3), world(), 0)
        return {int(i) for step in range(12) for batch in loader.load(step) for i in batch.id}

    train, held_out, everything = ids("train"), ids("held_out"), ids("all")
    assert everything == set(range(len(raw)))
    assert train | held_out == everything
    assert not train & held_out
    assert train
    assert held_out


def test_the_held_out_share_is_met_and_does_not_depend_on_the_other_samples():
    ids = np.arange(20_000)
    chosen = in_part(ids, "held_out", 0.1)
    assert abs(chosen.mean() - 0.1) < 0.01
    assert (in_part(ids[50:60], "held_out", 0.1) == chosen[50:60]).all()
    assert (in_part(ids, "held_out", 0.2) >= chosen).all()
    assert in_part(ids, "all", 0.1).all()


def test_the_report_tells_what_fits_no_bucket(raw):
    config = replace(CONFIG, buckets=BucketConfig(shapes=((1, 16, 16), (9, 16, 16))))
    lines = PixelLoader(raw, config, world(), 0).report()
    assert lines[0].startswith("pixels 1x16x16: 10 samples")
    assert lines[-1] == "2 samples without a bucket that fits, left out"


def test_nothing_to_train_on_is_refused(raw):
    config = replace(CONFIG, buckets=BucketConfig(shapes=((33, 16, 16),)))
    with pytest.raises(UserError, match="no sample that fits a bucket"):
        PixelLoader(raw, config, world(), 0)


def test_a_latent_cache_is_refused(tmp_path):
    make_cache(tmp_path, [[(2, 3, 1, 4, 4)] * 3])
    with pytest.raises(UserError, match="expected a raw dataset"):
        PixelLoader(Dataset(tmp_path), CONFIG, world(), 0)


def test_a_sample_without_media_is_named():
    with pytest.raises(MediaError, match="no picture or video among txt, json"):
        media_member({"txt": b"", "json": b"{}"})
    with pytest.raises(MediaError, match=r"has 2 images or videos \(rgb.png, mp4\), expected 1"):
        media_member({"rgb.png": b"", "json": b"{}", "mp4": b""})
    assert media_member({"json": b"{}", "rgb.png": b"picture"}) == b"picture"


@given(
    frames=st.integers(2, 5000),
    gap=st.integers(1, 1000),
    unit=st.sampled_from([Fraction(1, 1000), Fraction(1, 90000), Fraction(1, 24), Fraction(1001, 30000)]),
    fps=st.just(0.0) | st.floats(0.1, 240) | st.sampled_from([8.0, 24000 / 1001, 30.0]),
    stride=st.integers(1, 9),
    count=st.integers(1, 257),
    where=st.floats(0, 1),
)
def test_a_clip_that_a_bucket_promises_lies_in_its_video(frames, gap, unit, fps, stride, count, where):
    """The index has durations exactly, so the decoder finds a frame for each that was promised."""
    times = Times(tuple(range(7, 7 + gap * frames, gap)), unit, 7 + gap * frames, 1 / (gap * unit), False)
    media = media_table([Media(16, 16, frames, float(times.rate), times.rate, times.seconds)])
    config = BucketConfig(fps=fps, stride=stride)
    count = min(count, int(available_frames(media, config)[0]))
    start = clip_start(media, count, config, where)
    numbers = frame_numbers(times.count_at(fps) if fps else frames, start, count, stride)
    if fps:
        numbers = [times.on_screen(number / Fraction(fps)) for number in numbers]
    assert numbers == sorted(numbers)
    assert 0 <= numbers[0] <= numbers[-1] < frames
    with pytest.raises(MediaError, match="too few"):
        clip_start(media, int(available_frames(media, config)[0]) + 1, config, where)
