"""Sampling jobs that share an output with others, and workers of them that can be killed."""

from __future__ import annotations

import os
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from core.diffusion.sampling import SamplerConfig
from core.faults import failpoints
from core.queue.config import QueueConfig
from core.run import ends
from tests.forking import start_forked
from tools.sample import job as sample

COUNT, BATCH = 14, 2
QUEUE = QueueConfig(timeout_s=60, heartbeat_s=0.1)  # who waits for the dead by age alone waits too long here


def config(run: Path, name: str, **fields: Any) -> sample.Config:
    more = {"count": COUNT, "batch": BATCH, "sampler": SamplerConfig(steps=2), "queue": QUEUE, **fields}
    return sample.Config(source=str(run), output=str(run.parent / name), device="cpu", **more)


def content(output: Path) -> dict[str, bytes]:
    """Every file by name, but the config, which names the output."""
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in output.rglob("*")
        if path.is_file() and path.name != "config.yaml"
    }


def start_worker(config: sample.Config, faults: str = "", attempt: Path | None = None) -> BaseProcess:
    """Start the command in a process of its own.  attempt: folder of its supervisor."""
    return start_forked(_be_worker, config, faults, attempt)


def _be_worker(config: sample.Config, faults: str, attempt: Path | None) -> None:
    if attempt is not None:
        os.environ[ends.FOLDER] = str(attempt)
    failpoints.arm(faults)
    sample.run(config)
