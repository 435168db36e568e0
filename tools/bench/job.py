"""Measure the data plane and a training step beside the machine's limit and other libraries.

All ways to do the same work take turns in one process; what each gives is compared with what was written.
Rates count the fastest round and the median one; the floors look at the fastest, which other work on the
machine disturbs least. A peer that is not installed is said so (`pip install longtake[bench]`).
Results go to OUTPUT/WHAT.json and OUTPUT/WHAT.md. Exit status 1 where a floor is missed.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tempfile
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib import import_module, metadata
from pathlib import Path
from typing import Any, ClassVar, Literal

from core import terminal
from core.config.settings import REQUIRED, setting
from core.errors import WorkError
from core.files import write_json, write_text
from core.progress import counted

Kind = Literal["deepspeed", "fsdp2"]
PACKAGES = (
    "torch",
    "numpy",
    "webdataset",
    "litdata",
    "mosaicml-streaming",
    "av",
    "pillow",
    "diffusers",
    "deepspeed",
    "torch-fidelity",
)


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to measure, and how much of it."""

    job: ClassVar[str] = "bench"

    source: Literal[
        "reader",
        "writer",
        "decode",
        "step",
        "engine",
        "update",
        "checkpoint",
        "startup",
        "queue",
        "solver",
        "world",
        "sampling",
        "evaluation",
    ] = setting(REQUIRED, "what to measure")
    output: str = setting(
        "runs/bench", "folder for the results, and for the test data during the run", shown="path"
    )
    floors: bool = setting(True, "end with exit status 1 if a result is below its floor")
    rounds: int = setting(8, "timed rounds, after one warm-up round", low=1)
    samples: int = setting(65536, "number of latents of 8 KiB to read or write", unit="samples", low=512)
    peer_samples: int = setting(
        8192, "writer, foreign tars: number of samples per round for slow peers", low=512
    )
    videos: int = setting(128, "number of latents of 2.2 MB", unit="samples", low=16)
    index_rows: int = setting(10_000_000, "rows of the synthetic index", unit="samples", low=512)
    open_rows: int = setting(
        1_000_000_000, "world: rows of the dataset to open, in shards of 10,000", unit="samples", low=512
    )
    ranks: tuple[int, ...] = setting((8, 64, 512, 4096), "world: numbers of ranks", low=1)
    features: int = setting(50_000, "evaluation: number of features of 2,048 numbers", low=4096)
    kind: Kind = setting("deepspeed", "engine: what shards, reduces and updates, as engine.kind of training")
    clips: int = setting(6, "number of clips of 16 frames per round", low=1)
    video_frames: int = setting(144, "frames of the file from which clips are taken", unit="frames", low=18)
    network: str = setting(
        "",
        "step: a preset; '' is DiT-S/2 on a CPU and DiT-XL/2 on CUDA; update (15 GB of memory) and "
        "checkpoint: DiT-B/2",
    )
    batch: int = setting(
        0,
        "step: batch size; 0 is 4 on a CPU, and on a CUDA device as many as fit, up to 256",
        low=0,
    )
    compiled: bool = setting(
        True, "step: also measure this project with compiled blocks (a minute more); the floors need it"
    )
    peer: str = setting("", "step: folder of a facebookresearch/DiT checkout, to measure it too")
    processes: int = setting(1, "not used: one process measures", low=1)


def plan(config: Config) -> list[str]:
    """Say what `run` would do."""
    return [
        f"measure {config.source} in {config.rounds} rounds after a warm-up",
        f"write {config.output}/{config.source}.json and .md",
    ]


def run(config: Config) -> None:
    """Measure; WorkError if a floor is missed, or a way returns something wrong."""
    from tools.bench.rounds import Row, table

    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    load = os.getloadavg()
    scratch = Path(tempfile.mkdtemp(prefix=".material-", dir=folder))
    try:
        rows: list[Row] = import_module(f"tools.bench.{config.source}").rows(config, scratch)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    text = table(rows)
    about: dict[str, Any] = {"machine": machine(load), "versions": versions(), "config": asdict(config)}
    about |= {"command": f"longtake bench {' '.join(sys.argv[2:])}", "rows": [row.as_dict() for row in rows]}
    write_json(folder / f"{config.source}.json", about)
    write_text(folder / f"{config.source}.md", text + "\n")
    terminal.tell(text, to="stdout")
    missed = [f"{row.case}: {floor.what}" for row in rows for floor in row.floors if not floor.is_met]
    if missed and config.floors:
        raise WorkError(f"{counted(len(missed), 'floor')} missed: {'; '.join(missed)}")


def machine(load: tuple[float, float, float]) -> dict[str, Any]:
    """Describe the machine and its load (mean number of runnable processes over 1, 5, 15 minutes)."""
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_before": load,
        "load_after": os.getloadavg(),
    }


def versions() -> dict[str, str]:
    """Return the versions of everything that is measured."""
    installed = {name: "not installed" for name in PACKAGES}
    for distribution in metadata.distributions():
        if (name := distribution.metadata["Name"].lower()) in installed:
            installed[name] = distribution.version
    return installed


def _processor() -> str:
    about = Path("/proc/cpuinfo")
    lines = about.read_text().splitlines() if about.exists() else []
    return next(
        (line.partition(":")[2].strip() for line in lines if "model name" in line), platform.machine()
    )
