"""Read samples that are files of their own, by the list that `sample` wrote: samples.jsonl, a row a file."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from core.errors import WorkError
from core.files import read_bytes
from core.reading import json_files
from core.reading.json_files import Malformed
from core.records import iterate
from data.media.images import decode_image, decode_video


class PublishedFile(TypedDict):
    """The file of a sample.  index: number of the sample.  file: its path below the output.

    latents: path of the file of its latents.
    """

    index: int
    file: str
    sha256: str
    latents: NotRequired[str]
    latents_sha256: NotRequired[str]


class FileRow(PublishedFile):
    """A row of the list.  request: what makes the sample again.

    inputs: SHA-256 of the pictures and films that it was made from, by path.
    """

    request: dict[str, Any]
    inputs: NotRequired[dict[str, str]]


def rows_of(path: Path) -> list[FileRow]:
    """Read a list of files; WorkError if it is damaged."""
    try:
        return [
            json_files.checked(row, FileRow, f"{path}, row {number}")
            for number, row in enumerate(iterate(path))
        ]
    except (OSError, Malformed) as error:
        raise WorkError(str(error)) from None


def prompts_of(path: Path) -> list[str]:
    """Return the prompt of each file of a list, "" for none."""
    return [str(row["request"].get("prompt", "")) for row in rows_of(path)]


def read_files(
    path: Path, shape: tuple[int, int, int, int], classes: tuple[str, ...]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return pixels, (N, H, W, 3) or (N, T, H, W, 3), and labels (N,), -1 for no class.

    shape: (N, T, H, W).  WorkError for a file that is not the one of the list, or of another shape.
    """
    count, frames, height, width = shape
    each = (*((frames,) if frames > 1 else ()), height, width, 3)
    rows = rows_of(path)
    if len(rows) != count:
        raise WorkError(f"{path} lists {len(rows)} files, and the manifest tells of {count}")
    pixels = np.empty((count, *each), np.uint8)
    for number, row in enumerate(rows):
        pixels[number] = read_file(path.parent, row, frames, each)
    return pixels, labels_of(rows, classes)


def labels_of(rows: Sequence[FileRow], classes: tuple[str, ...]) -> NDArray[np.int64]:
    """Return the label of each file, -1 for no class."""
    named = [row["request"].get("class", "") for row in rows]
    return np.array([classes.index(name) if name in classes else -1 for name in named], np.int64)


def read_file(folder: Path, row: FileRow, frames: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Return the pixels of a file of this shape; WorkError if it is not the one that its row tells of."""
    file = folder / row["file"]
    data = read_bytes(file)
    if hashlib.sha256(data).hexdigest() != row["sha256"]:
        raise WorkError(f"{file} is not the file that the list tells of: its SHA-256 differs")
    found = decode(data, frames, *shape[-3:-1])
    if found.shape != shape:
        raise WorkError(f"{file} holds {found.shape}, and the manifest tells of {shape}")
    return found


def decode(data: bytes, frames: int, height: int, width: int) -> NDArray[np.uint8]:
    """Return the pixels of a picture, (H, W, 3), or of a film, (T, H, W, 3), as they were written."""
    if frames == 1:
        return decode_image(data)
    return decode_video(data)[:, :height, :width]  # films of odd sizes have a row or column more
