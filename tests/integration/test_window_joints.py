"""Long clips of overlapping windows do not jump where windows meet. Run: pytest -m full FILE"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from core.diffusion.sampling import SamplerConfig
from core.diffusion.tasks.windows import Windows
from core.root import ROOT
from launch import cli
from tools.runs.samples import Samples
from tools.sample import job as sample
from tools.sample.given.config import TaskConfig

FRAMES, WINDOW, OVERLAP = 33, 17, 8  # of the demo's clips
GROUP = 4  # pixel frames of a latent frame, after the first
MOST = 1.2  # times the change between other frames


def trained(folder: Path) -> Path:
    """Train on the demo's digits that move, by its configs, made small."""
    demo, tiny = ROOT / "configs/demo", ROOT / "configs/demo/tiny"
    places = {name: f"{folder / name}" for name in ("input", "shards", "autoencoder", "latents", "run")}
    commands = [
        ["digits", f"{demo}/digits.yaml", f"{tiny}/digits.yaml", f"output={places['input']}"],
        ["shard", f"source={places['input']}/train", f"output={places['shards']}"],
        [
            *("train-autoencoder", f"{demo}/train-autoencoder.yaml", f"{tiny}/train-autoencoder.yaml"),
            *(f"source={places['shards']}", f"output={places['autoencoder']}", "trainer.steps=120"),
        ],
        [
            *("encode", f"{demo}/encode.yaml", f"source={places['shards']}"),
            *(f"autoencoder={places['autoencoder']}", f"output={places['latents']}"),
        ],
        [
            *("train", f"{demo}/train.yaml", f"{tiny}/train.yaml", f"source={places['latents']}"),
            *(f"output={places['run']}", "model.width=64", "trainer.steps=150", "ema.decay=0.95"),
        ],
    ]
    for words in commands:
        assert cli.main(words) == 0
    return folder / "run"


def drawn(run: Path, name: str, frames: int, task: TaskConfig) -> np.ndarray:
    sample.run(
        sample.Config(
            source=str(run),
            output=str(run.parent / name),
            device="cpu",
            count=6,
            frames=frames,
            height=32,
            width=32,
            sampler=SamplerConfig(steps=8),
            task=task,
        )
    )
    return Samples.read(run.parent / name).load()[0].astype(float)


def jump(clips: np.ndarray, joints: list[int]) -> float:
    """Return the change at these places, relative to that between all other frames."""
    change = np.abs(np.diff(clips, axis=1)).mean((0, 2, 3, 4))
    return float(change[joints].mean() / np.delete(change, joints).mean())


@pytest.mark.full
@pytest.mark.multiprocess
def test_windows_of_the_demos_clips_meet_without_a_jump(tmp_path: Path) -> None:
    run = trained(tmp_path)
    windows = Windows(1 + (WINDOW - 1) // GROUP, 2)
    starts = windows.starts(1 + (FRAMES - 1) // GROUP)
    edges = sorted({*starts[1:], *(start + windows.length for start in starts[:-1])})
    joints = [GROUP * (edge - 1) for edge in edges]  # where the latent frame of an edge begins
    long = drawn(run, "long", FRAMES, TaskConfig(window=WINDOW, overlap=OVERLAP))
    assert jump(long, joints) <= MOST
    short = drawn(run, "short", WINDOW, TaskConfig())
    joined = np.concatenate([short[:3], short[3:]], 1)  # without windows: a jump that this would show
    assert jump(joined, [WINDOW - 1]) > jump(long, joints)
