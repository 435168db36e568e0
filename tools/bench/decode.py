"""Measure random clips of 16 frames from 480p H.264, brought to 256 pixels."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from core.progress import say
from data.media.images import decode_video
from tools.bench.clips import pyav_clip, pyav_decode_only, write_video
from tools.bench.job import Config
from tools.bench.rounds import Row, Way, measure

FRAMES, SIDE = 16, 256
_TOLERANCE = 2.0  # mean difference in levels of 255: two bicubic filters


class Clip(NamedTuple):
    """A decoded clip, uint8 (T, H, W, 3), of a file from one frame on."""

    path: Path
    start: int
    pixels: np.ndarray


def rows(config: Config, folder: Path) -> list[Row]:
    """Measure the one case."""
    torch.set_num_threads(1)
    say("bench: encoding videos of 854x480")
    paths = [write_video(folder / f"{seed}.mp4", seed, config.video_frames) for seed in range(2)]
    contents = {path: path.read_bytes() for path in paths}
    starts = np.random.default_rng(0).integers(0, config.video_frames - FRAMES, config.clips).tolist()
    wanted = [(paths[number % len(paths)], start) for number, start in enumerate(starts)]

    def ours() -> Iterator[Clip]:
        for path, start in wanted:
            pixels = decode_video(contents[path], frames=(start, FRAMES, 1), size=(SIDE, SIDE))
            yield Clip(path, start, pixels)

    def naive() -> Iterator[Clip]:
        for path, start in wanted:
            yield Clip(path, start, pyav_clip(path, start, FRAMES, SIDE))

    def limit() -> Iterator[int]:
        for path, start in wanted:
            yield pyav_decode_only(path, start, FRAMES)

    plain = {
        (path, start): decode_video(contents[path], frames=(start, FRAMES, 1), size=(SIDE, SIDE), seek=False)
        for path, start in wanted
    }
    ways = [
        Way("longtake", len(wanted), ours, lambda c: np.array_equal(c.pixels, plain[c.path, c.start])),
        Way("PyAV", len(wanted), naive, lambda c: _is_close(c.pixels, plain[c.path, c.start])),
        Way("decode only", len(wanted), limit, lambda count: count == FRAMES),
    ]
    protocol = (
        f"{len(wanted)} clips of {FRAMES} frames from {len(paths)} files of 854x480, a keyframe every 48 "
        "frames; all seek to the keyframe before the clip; PyAV: default threads, to_ndarray, torch's "
        "antialiased bicubic resize; decode only: one thread, nothing converted; longtake: one thread, as "
        "training and encoding decode"
    )
    row = Row("random 16-frame clips, 480p to 256", "clips", protocol, measure(ways, config.rounds))
    row.require("PyAV", 1.8)
    row.require("decode only", 0.65)
    return [row]


def _is_close(a: np.ndarray, b: np.ndarray) -> bool:
    return a.shape == b.shape and float(np.abs(a.astype(float) - b).mean()) < _TOLERANCE
