"""The demo's input: what is written, that held-out digits stay apart, and that clips move smoothly."""

from __future__ import annotations

import collections
import errno
from pathlib import Path

import numpy as np
import pytest

from data.media.images import decode_image, decode_video
from tools import digits

pytest.importorskip("sklearn")


def small(output: Path, **more: int) -> digits.Config:
    return digits.Config(output=str(output), digits=100, clips=50, **more)


def test_no_heldout_digit_is_in_a_training_file() -> None:
    _, labels = digits.load_digits(1797)
    files = list(digits.list_files(labels, clips=600))
    parts = collections.defaultdict(set)
    for file in files:
        parts[file.path.split("/")[0]].add(file.digit)
    assert not parts["train"] & parts["heldout"]
    assert parts["train"] | parts["heldout"] == set(range(1797))
    assert 350 <= len(parts["heldout"]) <= 359
    assert {labels[digit] for digit in parts["heldout"]} == set(range(10))


def test_files_lie_in_the_folder_of_their_class() -> None:
    _, labels = digits.load_digits(300)
    files = list(digits.list_files(labels, clips=100))
    assert all(file.path.split("/")[1] == str(labels[file.digit]) for file in files)
    assert len({file.path for file in files}) == len(files) == 400
    clips = [file for file in files if file.clip is not None]
    assert sum(file.path.startswith("heldout") for file in clips) == 20


def test_picture_keeps_its_source() -> None:
    pictures, _ = digits.load_digits(50)
    big = digits.draw(pictures[0], size=32, centre=(16, 16))
    assert big.shape == (32, 32)
    small_again = big.reshape(8, 4, 8, 4).mean((1, 3))
    assert np.corrcoef(small_again.ravel(), pictures[0].ravel())[0, 1] > 0.95


def test_drawing_follows_the_centre_by_fractions_of_a_pixel() -> None:
    picture = np.ones((8, 8), np.float32)
    weights = np.arange(32) + 0.5
    for y, x in [(12.0, 20.0), (12.3, 19.6)]:
        frame = digits.draw(picture, size=16, centre=(y, x))
        assert abs(np.average(weights, weights=frame.sum(1)) - y) < 0.05
        assert abs(np.average(weights, weights=frame.sum(0)) - x) < 0.05


def test_clips_move_and_change_little_from_frame_to_frame() -> None:
    pictures, _ = digits.load_digits(50)
    config = digits.Config(output="unused")
    for clip in range(20):
        frames = digits.move(pictures[clip], config.seed, clip, config.frames)
        centre = (frames * np.arange(32)).sum((1, 2)) / frames.sum((1, 2))
        row = (frames * np.arange(32)[:, None]).sum((1, 2)) / frames.sum((1, 2))
        steps = np.hypot(np.diff(centre), np.diff(row))
        assert steps.sum() > 3
        assert steps.max() < 2
        assert np.abs(np.diff(steps)).max() < 0.3


def test_run_writes_readable_files_and_an_interrupted_one_the_same_again(tmp_path: Path) -> None:
    config = small(tmp_path / "input")
    digits.run(config)
    pngs, mp4s = (sorted((tmp_path / "input").rglob(f"*.{end}")) for end in ("png", "mp4"))
    assert len(pngs) == 100
    assert len(mp4s) == 50
    assert decode_image(pngs[0].read_bytes()).shape == (32, 32, 3)
    assert decode_video(mp4s[0].read_bytes()).shape == (17, 32, 32, 3)
    before = {path: path.read_bytes() for path in [*pngs, *mp4s]}
    (tmp_path / "input" / digits.MANIFEST).unlink()
    (tmp_path / "input/train").rename(tmp_path / "input/.tmp-000000000000-train")
    mp4s[0].unlink()
    digits.run(config)
    assert {path: path.read_bytes() for path in [*pngs, *mp4s]} == before
    names = {path.name for path in (tmp_path / "input").iterdir()}
    assert names >= {"train", "heldout", digits.MANIFEST}
    assert not [name for name in names if name.startswith(".tmp-")]


def test_nothing_is_published_when_the_disk_did_not_take_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(folder))

    monkeypatch.setattr(digits, "sync_file_system", full)
    with pytest.raises(OSError, match="No space left"):
        digits.run(small(tmp_path / "input"))
    assert {path.name for path in (tmp_path / "input").iterdir()} <= {"config.yaml", "run.lock"}


def test_plan_counts_what_run_writes(tmp_path: Path) -> None:
    assert digits.plan(small(tmp_path))[:2] == [
        "100 digits as 32x32 PNG files, a fifth of them held out",
        "50 clips of 17 frames, a fifth of them of held-out digits",
    ]
