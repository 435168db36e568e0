"""What is chosen for a folder: more time never gives less, and nothing depends on anything else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from core.root import ROOT
from data.dataset.schema import MEDIA_DTYPE
from data.order.buckets import Bucket
from launch.demo.own import choice as choosing
from launch.demo.own import step_times
from launch.demo.own.choice import DENOISERS, RESOLUTIONS, Choice, Folder, choose
from launch.demo.own.step_times import Speed

TWO_CORES = Speed(image_pixels=4.5e5, clip_pixels=7e5, flops=1e11, memory=5e9, ranks=2)
GPU = Speed(image_pixels=5e7, clip_pixels=5e7, flops=1e14, memory=1e11, ranks=1)


def media(*rows: tuple[int, int, int, int]) -> np.ndarray:
    """Return facts of samples from (width, height, frames, frames a second)."""
    found = np.zeros(len(rows), MEDIA_DTYPE)
    for number, (width, height, frames, fps) in enumerate(rows):
        rate = max(1, fps)
        found[number] = (width, height, frames, fps, fps, 1, frames, rate, 0)
    return found


PHOTOS = media(*[(1600, 1200, 1, 0), (1200, 1600, 1, 0), (1920, 1080, 1, 0)] * 100)
FILMS = media(*[(1280, 720, 200, 30)] * 30)
BOTH = np.concatenate([PHOTOS, FILMS])


def chosen(found: np.ndarray, minutes: float, speed: Speed = TWO_CORES) -> Choice:
    return choose(Folder(found, spent_s=20), speed, minutes)


def test_the_table_of_the_docs_is_true() -> None:
    text = (ROOT / "docs" / "demo.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.split("| folder | machine |")[1].splitlines()[2:]]
    rows = [row for row in rows if len(row) == 9]
    folders = {"300 photographs": PHOTOS, "30 videos": FILMS, "both": BOTH}
    assert len(rows) == 21
    for folder, machine, minutes, pixels, frames, encoder, denoiser, steps, passes in rows:
        speed = TWO_CORES if machine == "two cores" else GPU
        row = chosen(folders[folder], float(minutes), speed)
        assert pixels == f"{row['resolution']}²" + ("" if row["wanted"] else " (too little time, said)")
        assert frames == str(row["shapes"][-1][0])
        assert (encoder, steps) == (f"{row['encoder_steps']:,}", f"{row['train_steps']:,}")
        assert (denoiser, passes) == (f"{row['width']} x {row['depth']}", f"{row['passes']:.0f}")


def test_reading_takes_time_too_unless_the_device_trains_meanwhile() -> None:
    slow = {"image_read": 0.02, "clip_read": 0.1}
    at_once = chosen(BOTH, 30)
    read = chosen(BOTH, 30, replace(TWO_CORES, **slow))
    beside = chosen(BOTH, 30, replace(TWO_CORES, **slow, reads_beside=True))
    assert read["encoder_steps"] < beside["encoder_steps"]
    assert read["resolution"] <= beside["resolution"] <= at_once["resolution"]
    waits = chosen(BOTH, 30, replace(GPU, image_read=1.0, reads_beside=True))
    assert waits["encoder_steps"] < chosen(BOTH, 30, GPU)["encoder_steps"]


@pytest.mark.parametrize("found", [PHOTOS, FILMS, BOTH], ids=["photos", "films", "both"])
@pytest.mark.parametrize("speed", [TWO_CORES, GPU], ids=["cpu", "gpu"])
def test_more_time_never_gives_less(found: np.ndarray, speed: Speed) -> None:
    before = (False, 0)
    for minutes in (2, 10, 30, 120):
        row = chosen(found, minutes, speed)
        size = row["resolution"] ** 2 * max(shape[0] for shape in row["shapes"])
        assert (row["wanted"], size) >= before
        before = (row["wanted"], size)


@pytest.mark.parametrize("minutes", [5, 30, 120])
def test_the_steps_fit_the_time(minutes: float) -> None:
    row = chosen(BOTH, minutes)
    shapes = [Bucket(*shape) for shape in row["shapes"]]
    weights = step_times.shares_of(shapes)
    encoder = row["encoder_steps"] * step_times.encoder_step(shapes, weights, TWO_CORES)
    model = (row["width"], row["depth"], row["heads"])
    train = row["train_steps"] * step_times.train_step(model, shapes, weights, TWO_CORES)[0]
    left = 60 * minutes - 20 - choosing.STARTS_S
    assert 0.3 * left < encoder <= choosing.ENCODER_SHARE * left
    assert train <= choosing.TRAIN_SHARE * left
    assert row["encoder_steps"] >= choosing.ENCODER_STEPS
    assert row["train_steps"] >= choosing.TRAIN_STEPS


def test_small_pictures_are_not_enlarged_for_their_own_sake() -> None:
    icons = media(*[(64, 48, 1, 0)] * 90, *[(640, 480, 1, 0)] * 10)
    assert chosen(icons, 480, GPU)["resolution"] == 48
    assert chosen(media((16, 16, 1, 0)), 480, GPU)["resolution"] == RESOLUTIONS[0]


def test_little_memory_lowers_the_resolution() -> None:
    small = Speed(GPU.image_pixels, GPU.clip_pixels, GPU.flops, memory=1.2e7, ranks=1)
    row = chosen(PHOTOS, 60, small)
    assert row["resolution"] == 96
    assert max(h * w for _, h, w in row["shapes"]) * choosing.ENCODER_BYTES <= small.memory


def test_clips_are_as_long_as_nine_tenths_of_the_videos() -> None:
    short = media(*[(640, 480, 10, 12)] * 19, (640, 480, 6, 12))
    assert chosen(short, 120, GPU)["shapes"][0][0] == 9
    assert chosen(media((640, 480, 3, 12), *[(640, 480, 60, 12)] * 3), 120, GPU)["shapes"][0][0] == 5


def test_frame_rates_are_brought_to_one_that_shows_more() -> None:
    assert chosen(FILMS, 120)["fps"] == choosing.CLIP_RATE  # 30 a second, long enough
    assert chosen(media(*[(640, 480, 60, 10)] * 4), 120)["fps"] == 0  # all of one rate, slow
    assert chosen(media(*[(640, 480, 60, 10)] * 4, (640, 480, 60, 8)), 120)["fps"] == 10
    assert chosen(PHOTOS, 30)["fps"] == 0


def test_few_pictures_are_not_passed_over_for_ever() -> None:
    few = PHOTOS[:20]
    row = chosen(few, 480, GPU)
    assert row["train_steps"] == choosing.TRAIN_STEPS
    assert (row["width"], row["depth"], row["heads"]) == DENOISERS[-1]


def test_what_is_generated_is_of_the_kinds_that_there_are() -> None:
    assert (chosen(PHOTOS, 30)["clips"], chosen(FILMS, 30)["images"]) == (0, 0)
    assert chosen(BOTH, 30)["images"] >= 16
    assert chosen(BOTH, 30)["clips"] >= 4
