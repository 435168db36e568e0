"""Lay samples out for people: a labelled grid of images, a sheet of clips, and clips side by side in one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from einops import repeat
from numpy.typing import NDArray

from core.files import atomic_file
from data.media.images import encode_mp4, encode_png
from data.media.labels import lettering
from data.media.labels.installed_fonts import SIZE

Pixels = NDArray[np.uint8]
GAP = 4  # pixels between pictures
PAPER = 24  # a dark page


def choose_rows(labels: NDArray[np.int64], rows: int, columns: int) -> list[tuple[int, list[int]]]:
    """Return (label, sample numbers) for each row of a grid: a row per class, or running rows for one class.

    Shown are the first samples of each class; with more classes than rows, evenly spaced classes.
    """
    present = np.unique(labels)
    if len(present) == 1:
        chunks = np.arange(min(len(labels), rows * columns))
        return [(int(present[0]), list(chunks[i : i + columns])) for i in range(0, len(chunks), columns)]
    spread = np.linspace(0, len(present) - 1, min(rows, len(present))).round().astype(int)
    return [(int(label), list(np.flatnonzero(labels == label)[:columns])) for label in present[spread]]


def image_grid(
    images: Pixels, labels: NDArray[np.int64], names: Sequence[str], rows: int = 10, columns: int = 10
) -> Pixels:
    """Draw images (N, H, W, 3) as a grid, one class a row with its name at the left."""
    scale = enlargement(images.shape[1], 80)
    chosen = choose_rows(labels, rows, columns)
    cells = [[enlarge(images[i], scale) for i in numbers] for _, numbers in chosen]
    return page(cells, [lettering.written_name(label, names) for label, _ in chosen])


def contact_sheet(clips: Pixels, labels: NDArray[np.int64], names: Sequence[str], rows: int = 10) -> Pixels:
    """Draw clips (N, T, H, W, 3): a clip a row, its frames from left to right (at most 17, evenly spaced)."""
    scale = enlargement(clips.shape[2], 64)
    times = np.linspace(0, clips.shape[1] - 1, min(17, clips.shape[1])).round().astype(int)
    numbers = first_of_classes(labels, rows)
    cells = [[enlarge(frame, scale) for frame in clips[i, times]] for i in numbers]
    return page(cells, [lettering.written_name(int(labels[i]), names) for i in numbers])


def write_clips(
    path: Path,
    clips: Pixels,
    labels: NDArray[np.int64],
    names: Sequence[str],
    fps: float,
    count: int = 10,
    columns: int = 5,
) -> None:
    """Publish an mp4 of `count` of the clips (N, T, H, W, 3) side by side, each under its class name."""
    scale = enlargement(clips.shape[2], 144)
    numbers = first_of_classes(labels, count)
    columns = min(columns, len(numbers))
    blank = np.full((scale * clips.shape[2], scale * clips.shape[3], 3), PAPER, np.uint8)
    captions = [caption(lettering.written_name(int(labels[i]), names), blank.shape[1]) for i in numbers]
    frames = []
    for time in range(clips.shape[1]):
        tiles = [
            np.concatenate([c, enlarge(clips[i, time], scale)])
            for c, i in zip(captions, numbers, strict=True)
        ]
        tiles += [np.full_like(tiles[0], PAPER)] * (-len(tiles) % columns)
        frames.append(page([tiles[i : i + columns] for i in range(0, len(tiles), columns)], []))
    encode_mp4(path, np.stack(frames), fps)


def write_png(path: Path, pixels: Pixels) -> None:
    """Publish `pixels` (H, W, 3) as a PNG file."""
    with atomic_file(path) as file:
        file.write(encode_png(pixels))


def first_of_classes(labels: NDArray[np.int64], count: int) -> list[int]:
    """Return `count` sample numbers: the first of every class, then the second of every class, and so on."""
    rank = np.array([np.count_nonzero(labels[:i] == label) for i, label in enumerate(labels)])
    return [int(i) for i in np.lexsort((labels, rank))[:count]]


def enlargement(side: int, wanted: int) -> int:
    """Return the whole factor that brings `side` closest to `wanted` pixels."""
    return max(1, round(wanted / side))


def enlarge(picture: Pixels, factor: int) -> Pixels:
    """Repeat every pixel of (H, W, 3) `factor` times both ways: what is shown is what was generated."""
    return repeat(picture, "h w c -> (h y) (w x) c", y=factor, x=factor)


def page(cells: Sequence[Sequence[Pixels]], names: Sequence[str]) -> Pixels:
    """Put rows of pictures (H, W, 3) on a dark page, with row names at the left if there are any.

    Each stands in the middle of a cell that holds the largest. The page is allocated once.
    """
    height = max(picture.shape[0] for row in cells for picture in row)
    width = max(picture.shape[1] for row in cells for picture in row)
    columns = max(len(row) for row in cells)
    margin = max(lettering.width(name) for name in names) + 4 * GAP if any(names) else 0
    size = GAP + len(cells) * (height + GAP), margin + GAP + columns * (width + GAP)
    sheet = np.full((*size, 3), PAPER, np.uint8)
    for row, pictures in enumerate(cells):
        for column, picture in enumerate(pictures):
            top = GAP + row * (height + GAP) + (height - picture.shape[0]) // 2
            left = margin + GAP + column * (width + GAP) + (width - picture.shape[1]) // 2
            sheet[top : top + picture.shape[0], left : left + picture.shape[1]] = picture
    if not margin:
        return sheet
    places = [(margin // 2, GAP + row * (height + GAP) + height // 2) for row in range(len(names))]
    return lettering.write(sheet, list(zip(places, names, strict=True)))


def caption(text: str, width: int) -> Pixels:
    """Draw a text in the middle of a strip as wide as a picture."""
    strip = np.full((SIZE + 2 * GAP, width, 3), PAPER, np.uint8)
    return lettering.write(strip, [((width // 2, strip.shape[0] // 2), text)])
