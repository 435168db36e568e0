"""Pictures of samples: which ones they show, where, and that pixels are unchanged."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from data.media import pictures
from data.media.images import decode_video


def test_grid_takes_the_first_samples_of_every_class() -> None:
    labels = np.array([1, 0, 1, 1, 0, 2])
    rows = pictures.choose_rows(labels, rows=3, columns=2)
    assert rows == [(0, [1, 4]), (1, [0, 2]), (2, [5])]


def test_many_classes_are_spread_and_no_class_fills_rows() -> None:
    assert [label for label, _ in pictures.choose_rows(np.arange(100), 3, 1)] == [0, 50, 99]
    assert pictures.choose_rows(np.full(5, -1), 2, 2) == [(-1, [0, 1]), (-1, [2, 3])]


def test_grid_shows_the_pixels_enlarged_by_a_whole_factor() -> None:
    images = np.random.default_rng(0).integers(0, 256, (4, 32, 32, 3), np.uint8)
    grid = pictures.image_grid(images, np.full(4, -1), [], rows=2, columns=2)
    scale = pictures.enlargement(32, 80)
    corner = grid[pictures.GAP :, pictures.GAP :]
    step = 32 * scale + pictures.GAP
    assert np.array_equal(corner[: 32 * scale : scale, : 32 * scale : scale], images[0])
    assert np.array_equal(corner[step : step + 32 * scale : scale, : 32 * scale : scale], images[2])


def test_class_names_are_written_in_a_margin() -> None:
    images, labels = np.zeros((2, 32, 32, 3), np.uint8), np.array([0, 1])
    named = pictures.image_grid(images, labels, ["cat", "dog"])
    bare = pictures.image_grid(images, np.array([-1, -1]), [], columns=1)
    margin = named.shape[1] - bare.shape[1]
    assert margin > 0
    assert named[:, :margin].max() > 150
    assert np.array_equal(named[:, margin:], bare)


def test_first_of_classes_takes_turns() -> None:
    assert pictures.first_of_classes(np.array([0, 0, 1, 1, 2, 2]), 4) == [0, 2, 4, 1]


def test_clips_are_tiled_frame_by_frame(tmp_path: Path) -> None:
    clips = np.zeros((3, 5, 32, 32, 3), np.uint8)
    clips[1, 3] = 255
    pictures.write_clips(tmp_path / "clips.mp4", clips, np.arange(3), list("abc"), fps=8, columns=2)
    video = decode_video((tmp_path / "clips.mp4").read_bytes())
    assert len(video) == 5
    white = (video > 200).mean((1, 2, 3))
    assert white.argmax() == 3
    assert white[3] > white[2] + 0.15


def test_contact_sheet_has_a_row_a_clip_and_a_column_a_frame() -> None:
    clips = np.zeros((2, 5, 32, 32, 3), np.uint8)
    clips[1, 4] = 255
    sheet = pictures.contact_sheet(clips, np.full(2, -1), [])
    side = 64 + pictures.GAP
    assert sheet.shape[:2] == (2 * side + pictures.GAP, 5 * side + pictures.GAP)
    assert sheet[side + 10, 4 * side + 10].tolist() == [255, 255, 255]
    assert sheet[10, 4 * side + 10].tolist() == [0, 0, 0]
