"""Training jobs that look at their averages now and then, and the same jobs without."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from core.checkpoint.weights import load_weights
from core.config.loading import load
from core.errors import EndedEarly
from tests.integration.tiny_run import MODEL, OBJECTIVE, STEP, rows
from tools.preview import sampled_look
from tools.train.config import Config
from tools.train.job import run

FIELDS = (
    "trainer.steps=4",
    "trainer.save_every=2",
    "ema.extra_decays=[0.05]",
    "metrics.log_every=1",
    "optimizer.lr=0.05",
    "engine.precision=fp32",
)


def config(cache: Path, output: Path, *fields: str) -> Config:
    common = (f"source={cache}", f"output={output}", *MODEL, *OBJECTIVE, *STEP, *FIELDS)
    return load(Config, overrides=[*common, *fields])


def assert_equal(a: Path, b: Path) -> None:
    """Two runs trained alike: rows and weights are the same."""
    assert rows(a) == rows(b)
    for which in ("raw", "ema", "0.05"):
        one, other = load_weights(a, which), load_weights(b, which)
        assert all((one[name] == other[name]).all() for name in one)


def break_off(asked: Config) -> None:
    """Train until the first look, and have the run asked to end while it samples."""
    made = sampled_look.make_latents

    def interrupted(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return made(*arguments)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sampled_look, "make_latents", interrupted)
        with pytest.raises(EndedEarly, match="saved after step 2 of 4"):
            run(asked)
