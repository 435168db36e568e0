"""A run whose frames have noise levels of their own: trained, sampled frame after frame, or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.diffusion.sampling import SamplerConfig
from core.errors import UserError
from core.records import read_rows
from tests.integration.tiny_run import command, finish, make_autoencoder, make_latents
from tools.runs.samples import read_made_from
from tools.sample import job as sample

FRAMES = ("model.frame_levels=true", "objective.path=rectified_flow", "objective.prediction=flow")


def train(folder: Path, *fields: str) -> Path:
    make_autoencoder(folder / "autoencoder")
    cache = make_latents(folder / "cache", folder / "autoencoder")
    status, output = finish(command(cache, folder / "run", *FRAMES, "trainer.steps=2", *fields))
    assert status == 0, output
    return folder / "run"


def draw(run: Path, name: str, lag: int, **fields: Any) -> np.ndarray:
    sampler = SamplerConfig(steps=3, solver="ddim", frame_lag=lag)
    config = sample.Config(
        source=str(run),
        output=str(run.parent / name),
        sampler=sampler,
        frames=3,
        count=2,
        device="cpu",
        **fields,
    )
    sample.plan(config)
    sample.run(config)
    with np.load(run.parent / name / "samples.npz") as arrays:
        return arrays["arr_0"]


@pytest.mark.full
@pytest.mark.multiprocess
def test_a_run_with_levels_of_frames_is_sampled_frame_after_frame(tmp_path: Path) -> None:
    run = train(tmp_path, "objective.frame_times=monotone", "objective.given.ends=1")
    losses = [row["loss"] for row in read_rows(run / "metrics.jsonl") if "loss" in row]
    assert losses
    assert np.isfinite(losses).all()
    together, after = draw(run, "together", 0), draw(run, "after", 3)
    assert together.shape == after.shape == (2, 3, 8, 8, 3)
    # After two steps of training frames hardly depend on each other, nor then on the order of steps.
    assert np.abs(together.astype(int) - after).max() <= 2
    assert read_made_from(tmp_path / "after")["sampler"]["frame_lag"] == 3  # type: ignore[index]


@pytest.mark.full
@pytest.mark.multiprocess
def test_frames_lag_only_in_a_run_that_was_trained_on_such(tmp_path: Path) -> None:
    run = train(tmp_path)
    with pytest.raises(
        UserError, match=r"frame_lag=1: expected 0 for a run trained on frames of equal noise"
    ):
        draw(run, "lagging", 1)
    draw(run, "together", 0)
