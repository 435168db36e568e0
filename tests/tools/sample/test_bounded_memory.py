"""Memory is that of one batch whatever the count. Run: pytest -m full FILE"""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import pytest

from core.diffusion.sampling import SamplerConfig
from tests.forking import start_forked
from tests.tools.made_runs import make_run
from tools.sample import job as sample
from tools.sample.config import FilesConfig

COUNT, FRAMES, HEIGHT, WIDTH = 240, 9, 64, 256
BYTES = COUNT * FRAMES * HEIGHT * WIDTH * 3  # 106 MB of pixels
SPARE = BYTES // 3  # beyond the most that the process has taken for a job of a few samples


def make(run: Path, name: str, count: int, kind: Any) -> None:
    sample.run(
        sample.Config(
            source=str(run),
            output=str(run.parent / name),
            device="cpu",
            count=count,
            batch=2,
            frames=FRAMES,
            height=HEIGHT,
            width=WIDTH,
            sampler=SamplerConfig(steps=1),
            files=FilesConfig(kind=kind),
        )
    )


def within_a_limit(run: Path, kind: str) -> None:
    """Make a few samples, allow little more memory than that took, and make many."""
    make(run, "few", 6, kind)
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    limit = int(status["VmPeak"].split()[0]) * 1024 + SPARE
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    make(run, "many", COUNT, kind)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["npz", "h264"])
def test_many_samples_take_no_more_memory_than_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    run = make_run(tmp_path / "run", monkeypatch)
    process = start_forked(within_a_limit, run, kind)
    process.join(900)
    assert process.exitcode == 0
    assert (tmp_path / "many" / "samples.json").is_file()
