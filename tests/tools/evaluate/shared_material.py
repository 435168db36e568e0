"""Small pictures and clips of two classes, generated ones beside them, and evaluations of both by ranks."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.queue.config import QueueConfig
from core.run.ending import end_with
from data.media.film.codecs import encode_film
from data.media.images import encode_png
from models.autoencoder import kl, store
from tests.tools.evaluate.test_job import write_samples
from tools.evaluate import job as evaluate
from tools.evaluate import reconstruction_units
from tools.evaluate.classified import real_looks, verdicts
from tools.evaluate.config import ReconstructionConfig
from tools.shard import job as shard

SIDE, FRAMES = 16, 5
REAL, CLIPS, MADE = 46, 14, 22
UNIT = 6


def bars(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Draw bars, horizontal (0) or vertical (1), that move over the frames: (N, T, H, W, 3), and classes."""
    random = np.random.default_rng(seed)
    frames, labels = np.zeros((count, FRAMES, SIDE, SIDE, 3), np.uint8), random.integers(0, 2, count)
    for clip, label, place in zip(frames, labels, random.integers(1, SIDE - 8, count), strict=True):
        for number, frame in enumerate(clip):
            side = frame if label == 0 else frame.transpose(1, 0, 2)
            side[place + number : place + number + 3] = random.integers(100, 256, 3)
    return frames, labels


def make(folder: Path) -> None:
    """Write datasets `real` and `heldout`, `samples/images` and `samples/clips`, and an autoencoder."""
    for part, seed in (("real", 0), ("heldout", 1)):
        for name in "ab":
            (folder / "files" / part / name).mkdir(parents=True)
        clips, labels = bars(seed, REAL + CLIPS)
        for number, (clip, label) in enumerate(zip(clips, labels, strict=True)):
            path = folder / "files" / part / "ab"[label] / f"{number:02d}"
            is_clip = number >= REAL
            data = encode_film(clip, 8.0, "ffv1", None) if is_clip else encode_png(clip[0])
            path.with_suffix(".mkv" if is_clip else ".png").write_bytes(data)
        shard.run(shard.Config(source=str(folder / "files" / part), output=str(folder / part)))
    clips, labels = bars(2, MADE)
    write_samples(folder / "samples/images", clips[:, 0], labels)
    write_samples(folder / "samples/clips", clips[:9], labels[:9])
    small = kl.KLConfig(width=8, channel_multipliers=(1, 1, 1), blocks=1)
    store.save(kl.Autoencoder(small), folder / "autoencoder")


def by_classifier(folder: Path, output: Path, **fields: Any) -> evaluate.Config:
    known: dict[str, Any] = {"real": str(folder / "real"), "autoencoder": str(folder / "autoencoder")}
    known |= {"steps": 12, "count": 20, "draws": 2, "queue": QueueConfig(heartbeat_s=0.1), "device": "cpu"}
    return evaluate.Config(source=str(folder / "samples"), output=str(output), **known | fields)


def of_copies(folder: Path, output: Path, **fields: Any) -> evaluate.Config:
    known: dict[str, Any] = {"real": str(folder / "real"), "measure": "reconstruction", "device": "cpu"}
    known |= {"reconstruction": ReconstructionConfig(size=(SIDE, SIDE)), "batch": 4}
    known |= {"queue": QueueConfig(heartbeat_s=0.1)}
    return evaluate.Config(source=str(folder / "autoencoder"), output=str(output), **known | fields)


def cut_small(patch: pytest.MonkeyPatch) -> None:
    """Cut samples into many units."""
    for module in (real_looks, verdicts, reconstruction_units):
        patch.setattr(module, "IMAGES", UNIT)
    for classified in (real_looks, verdicts):
        patch.setattr(classified, "CLIPS", UNIT)


def main() -> None:
    """Do what each rank does: both evaluations over what is there.

    words: folder of the material, output, held-out dataset.
    """
    folder, output, heldout = map(Path, sys.argv[1:])
    with pytest.MonkeyPatch.context() as patch:
        cut_small(patch)
        for name, config in (("classified", by_classifier), ("copies", of_copies)):
            more = {"heldout": str(heldout)} if name == "classified" else {}
            evaluate.run(config(folder, output / name, overwrite=True, **more))


if __name__ == "__main__":
    end_with(main)
