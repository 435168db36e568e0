"""A small encoding job for tests, and workers of it that can be killed."""

from __future__ import annotations

import os
import sys
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch

from core.faults import failpoints
from core.queue.config import QueueConfig
from data.dataset.index import Dataset
from data.order.buckets import BucketConfig
from models.autoencoder import kl, store
from tests.forking import start_forked
from tools.encode import job as encode

AUTOENCODER = kl.KLConfig(width=8, channel_multipliers=(1, 1, 1), blocks=1)
SHAPES = ((1, 16, 16), (5, 16, 16))
# Short, since tests wait for it; many attempts, since a busy machine may stall a living worker for longer.
QUEUE = QueueConfig(timeout_s=1.5, heartbeat_s=0.1, attempts=20)


def make_autoencoder(folder: Path, seed: int = 0) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        store.save(kl.Autoencoder(AUTOENCODER), folder)
    return folder


def make_config(raw: Dataset, encoder: Path, output: Path) -> encode.Config:
    return encode.Config(
        source=str(raw.folder),
        autoencoder=encoder,
        output=output,
        queue=QUEUE,
        buckets=BucketConfig(shapes=SHAPES),
        batch=3,
    )


def captioned_config(sources: Path, output: Path, **fields: Any) -> encode.Config:
    """Return an encoding of `raw` with the `autoencoder` and the text encoder `t5` beside it, as pictures."""
    given = {
        "source": str(sources / "raw"),
        "autoencoder": sources / "autoencoder",
        "text_encoder": str(sources / "t5"),
        "output": output,
        "buckets": BucketConfig(shapes=SHAPES[:1]),
        "batch": 2,
    }
    return encode.Config(**given | fields)


def content(folder: Path) -> dict[str, bytes]:
    """Return every file by name, except the config, which names the output."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "config.yaml"
    }


def start_worker(config: encode.Config, *, faults: str = "", clock_skew_s: float = 0) -> BaseProcess:
    """Start the command in a process of its own, as if typed on another node whose clock is wrong."""
    return start_forked(_be_worker, config, faults, clock_skew_s)


def log_of(config: encode.Config, process: int | None) -> Path:
    """Return the output of a worker."""
    return config.output.with_name(f"{config.output.name}-{process}.log")


def _be_worker(config: encode.Config, faults: str, clock_skew_s: float) -> None:
    log = os.open(log_of(config, os.getpid()), os.O_WRONLY | os.O_CREAT)
    os.dup2(log, 1)
    os.dup2(log, 2)
    sys.stdout, sys.stderr = (os.fdopen(number, "w") for number in (1, 2))
    right = time.time
    time.time = lambda: right() + clock_skew_s
    failpoints.arm(faults)
    encode.run(config)
