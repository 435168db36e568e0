"""Write real input for the demo: scikit-learn's handwritten digits as PNG files, and as mp4 clips.

Layout: `train/CLASS/digit_0000.png`, `train/CLASS/clip_0000.mp4` and the same under `heldout/`. A held-out
digit appears in no training file, also not in a training clip, so what is measured on it is unseen input.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from core.config.settings import REQUIRED, setting
from core.errors import UserError
from core.files import atomic_folder, fingerprint, temporaries, write_json

if TYPE_CHECKING:
    from numpy.typing import NDArray

MANIFEST = "digits.json"
PARTS = "train", "heldout"
THREADS = 4  # the video encoder works without the interpreter's lock
CANVAS = 32  # pixels
HELDOUT_EVERY = 5  # the 5th, 10th, ... digit of each class, so that every writer is in both parts


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which files to write, and where."""

    job: ClassVar[str] = "digits"

    output: str = setting(REQUIRED, "folder that receives train/ and heldout/", shown="path", role="place")
    seed: int = setting(0, "seed of the clips' digits and paths", low=0)
    clips: int = setting(1200, "number of clips; a fifth of them show held-out digits", low=0)
    frames: int = setting(17, "frames of a clip", low=2)
    fps: int = setting(12, "playing speed of the clips", unit="frames/s", low=1)
    digits: int = setting(1797, "number of digits to write", low=100, high=1797)
    overwrite: bool = setting(False, "write again over a finished output", role="work")


@dataclass(frozen=True)
class File:
    """One file to write: a picture of digit `digit`, or a clip of it with number `clip`."""

    path: str
    digit: int
    clip: int | None = None


@dataclass(frozen=True)
class Clip:
    """Seed of the clips' paths, frames of each, and frames a second."""

    seed: int
    frames: int
    fps: int


def plan(config: Config) -> list[str]:
    """Say what `run` would write."""
    return [
        f"{config.digits} digits as {CANVAS}x{CANVAS} PNG files, a fifth of them held out",
        f"{config.clips} clips of {config.frames} frames, a fifth of them of held-out digits",
        f"into {config.output}",
    ]


def run(config: Config) -> None:
    """Write the two parts, each of which appears when it is whole, then the manifest.

    What an interrupted run left is written again: to keep it, each of 3,000 files would have to be synced
    before it gets its name, which takes longer than all the rest.
    """
    from core.run.claim import claim

    output = Path(config.output)
    if claim(output, config, done=MANIFEST, overwrite=config.overwrite) == "finished":
        return
    for left in temporaries(output):
        shutil.rmtree(left, ignore_errors=True)
    pictures, labels = load_digits(config.digits)
    files = list(list_files(labels, config.clips))
    clip = Clip(config.seed, config.frames, config.fps)
    _write_parts(output, files, lambda file: render(pictures[file.digit], file, clip))
    write_json(output / MANIFEST, {"files": len(files), "content": fingerprint([f.path for f in files])})


def _write_parts(output: Path, files: Sequence[File], content: Callable[[File], bytes]) -> None:
    """Write all files, and publish the parts."""
    from core.progress import Progress

    with ExitStack() as stack:
        folders = {part: stack.enter_context(atomic_folder(output / part)) for part in PARTS}

        def write(file: File) -> None:
            part, name = file.path.split("/", 1)
            path = folders[part] / name
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content(file))

        progress = stack.enter_context(Progress(len(files), "write digits", unit="files"))
        threads = stack.enter_context(ThreadPoolExecutor(THREADS))
        for _ in threads.map(write, files):
            progress.advance()
        sync_file_system(output)


def load_digits(count: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Return the first `count` digits, (n, 8, 8) in [0, 1] (white on black), and their classes (n,)."""
    try:
        from sklearn.datasets import load_digits as load
    except ImportError as error:
        raise UserError("scikit-learn is missing; install it with: pip install 'longtake[demo]'") from error
    pictures, labels = load(return_X_y=True)
    return (pictures[:count].reshape(-1, 8, 8) / 16).astype(np.float32), labels[:count].astype(np.int64)


def list_files(labels: NDArray[np.int64], clips: int) -> Iterator[File]:
    """Yield every file of the output; classes take turns in the clips, and so do the digits of a class."""
    heldout = is_heldout(labels)
    for digit, label in enumerate(labels):
        part = "heldout" if heldout[digit] else "train"
        yield File(f"{part}/{label}/digit_{digit:04d}.png", digit)
    for clip in range(clips):
        turn, label = divmod(clip, 10)
        in_heldout = turn % HELDOUT_EVERY == HELDOUT_EVERY - 1
        choices = np.flatnonzero((labels == label) & (heldout == in_heldout))
        digit = int(choices[(turn // HELDOUT_EVERY if in_heldout else turn) % len(choices)])
        yield File(f"{'heldout' if in_heldout else 'train'}/{label}/clip_{clip:04d}.mp4", digit, clip)


def is_heldout(labels: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Mark the fifth, tenth, ... digit of every class (n,)."""
    heldout = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        heldout[np.flatnonzero(labels == label)[HELDOUT_EVERY - 1 :: HELDOUT_EVERY]] = True
    return heldout


def render(picture: NDArray[np.float32], file: File, clip: Clip) -> bytes:
    """Return the bytes of a file that shows `picture`."""
    from data.media.film.codecs import encode_film
    from data.media.images import encode_png

    if file.clip is None:
        return encode_png(to_rgb(draw(picture, size=CANVAS, centre=(CANVAS / 2, CANVAS / 2))))
    return encode_film(to_rgb(move(picture, clip.seed, file.clip, clip.frames)), clip.fps)


def move(picture: NDArray[np.float32], seed: int, clip: int, frames: int) -> NDArray[np.float32]:
    """Return a clip (frames, 32, 32) in which the digit follows a gently curved path inside the canvas.

    Size (20 to 23 pixels), start, end and bend are drawn from (seed, clip); start and end lie at least three
    quarters of the free room apart, so that every clip moves.
    """
    random = np.random.default_rng((seed, clip))
    size = random.uniform(20, 23)
    start, end = _apart(random)
    middle = (start + end) / 2 + 0.25 * random.uniform(-1, 1, 2)
    time = np.linspace(0, 1, frames)[:, None]
    path = (1 - time) ** 2 * start + 2 * time * (1 - time) * middle + time**2 * end  # quadratic Bezier curve
    centres = size / 2 + np.clip(path, 0, 1) * (CANVAS - size)
    return np.stack([draw(picture, size=size, centre=(y, x)) for y, x in centres])


def _apart(random: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    while True:
        start, end = random.uniform(0, 1, (2, 2))
        if np.linalg.norm(end - start) >= 3 / 4:
            return start, end


def draw(picture: NDArray[np.float32], *, size: float, centre: tuple[float, float]) -> NDArray[np.float32]:
    """Paint `picture` (8, 8) as a square of `size` pixels around `centre` (y, x) on black (32, 32)."""
    rows, columns = (_cubic_weights(size, c, picture.shape[0]) for c in centre)
    return np.clip(rows @ picture @ columns.T, 0, 1).astype(np.float32)


def _cubic_weights(size: float, centre: float, samples: int) -> NDArray[np.float64]:
    """Return (32, samples): what each source sample gives to each canvas pixel; beyond the source is black.

    Cubic convolution with a = -1/2 (Keys 1981, equation 4), so the digit moves by fractions of a pixel.
    """
    position = (np.arange(CANVAS) + 0.5 - centre) * samples / size + samples / 2 - 0.5
    distance = np.abs(position[:, None] - np.arange(samples))
    near = 1.5 * distance**3 - 2.5 * distance**2 + 1
    far = -0.5 * distance**3 + 2.5 * distance**2 - 4 * distance + 2
    return np.where(distance < 1, near, np.where(distance < 2, far, 0))


def to_rgb(frames: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Turn grey values (..., H, W) in [0, 1] into uint8 (..., H, W, 3)."""
    grey = np.round(frames * 255).astype(np.uint8)
    return np.repeat(grey[..., None], 3, axis=-1)


def sync_file_system(folder: Path) -> None:
    """Make all that was written to the file system of `folder` survive a power loss, in one wait.

    OSError where some of it could not be stored (since Linux 5.8; before, and elsewhere, that goes unsaid).
    """
    if sys.platform != "linux":
        os.sync()
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(folder))
    finally:
        os.close(descriptor)
