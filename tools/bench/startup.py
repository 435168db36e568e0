"""Measure the start of a process up to its first optimizer step, beside the least script with one step.

Ours is `longtake train` on a cache, as a person types it; both run in fresh processes, in turn. Compilers
that only note that they were called stand first in the path of both; the folder of torch's extensions is new.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from core.environment import without_launcher
from core.errors import WorkError
from core.files import published_below
from core.root import ROOT
from data.dataset.index import Dataset
from models.autoencoder import store
from models.autoencoder.kl import Autoencoder, KLConfig
from models.autoencoder.opening import identify
from tools.bench.job import Config
from tools.bench.material import IMAGE, make_cache
from tools.bench.rounds import Floor, Row, Way, measure

PRESET, BATCH = "DiT-S/2", 8
COMPILERS = ("c++", "cc", "clang", "clang++", "g++", "gcc", "ninja", "nvcc")
SLOWER = 1.10  # at the median

# `longtake train`, until its first step is done. Nothing heavy is imported before the command itself does.
OURS = """
import os, sys
from core.faults import failpoints
from launch.cli import main

def first(name, value=None):
    if name == "step.end":
        print("step", flush=True)
        os._exit(0)
    return value

failpoints.failpoint = first
sys.exit(main(["train", *sys.argv[1:]]))
"""


def rows(config: Config, folder: Path) -> list[Row]:
    """Measure the one case: eager, one rank."""
    preset = config.network or PRESET
    job = _job(folder, preset)
    environment, called = _environment(folder)

    def start(command: Callable[[], list[str]]) -> Callable[[], Iterator[str]]:
        return lambda: iter([_first_line(command(), environment)])

    runs = iter(range(10**6))
    grid = ",".join(map(str, IMAGE[2:]))
    bare = [sys.executable, "-m", "tools.bench.bare_start", preset, grid, str(BATCH)]
    ways = [
        Way("longtake", 1, start(lambda: [*job, f"output={folder}/run-{next(runs)}"]), _is_step),
        Way("the least script", 1, start(lambda: bare), _is_step),
    ]
    protocol = (
        f"{preset}, batch {BATCH}, ZeRO 1, bf16, eager, one rank: from the start of a process to the end of "
        "its first step; fresh processes in turn, files in the page cache; the script has the same imports"
    )
    row = Row("start to first step", "starts", protocol, measure(ways, config.rounds))
    slower = 1 / row.median_ratio("the least script")
    row.facts = {"calls of compilers": float(len(called())), "extensions built": float(_built(environment))}
    row.floors = [
        Floor("seconds, median, of one of the least script's", slower, SLOWER, at_most=True),
        *(Floor(what, value, 0, at_most=True) for what, value in row.facts.items()),
    ]
    return [row]


def _job(folder: Path, preset: str) -> list[str]:
    """Return the words of a training run on 64 latents, except for its output."""
    shape = KLConfig(width=8, channel_multipliers=(1, 1, 1), blocks=1)
    store.save(autoencoder := Autoencoder(shape), folder / "autoencoder")
    cache: Dataset = make_cache(folder / "cache", 64, IMAGE, shards=1)
    statistics = {"mean": [0.0] * IMAGE[1], "std": [1.0] * IMAGE[1]}
    extra = {**cache.manifest.extra, "made_from": identify(autoencoder), "statistics": statistics}
    classes = tuple(str(number) for number in range(10))
    replace(cache.manifest, extra=extra, classes=classes).write(cache.folder)
    words = [f"source={cache.folder}", f"autoencoder={folder / 'autoencoder'}", f"model.preset={preset}"]
    words += ["model.learned_sigma=false", f"data.group_size={BATCH}", "data.groups_per_step=1"]
    return [sys.executable, "-c", OURS, *words]


def _environment(folder: Path) -> tuple[dict[str, str], Callable[[], list[str]]]:
    """Return the processes' environment, and a function that lists the compilers that they called."""
    tools, calls = folder / "tools", folder / "calls"
    tools.mkdir()
    for name in COMPILERS:
        (tools / name).write_text(f'#!/bin/sh\necho "{name} $*" >> "{calls}"\nexit 1\n', encoding="utf-8")
        (tools / name).chmod(0o755)
    (folder / "extensions").mkdir()
    environment = {
        **without_launcher(os.environ),
        "PATH": f"{tools}{os.pathsep}{os.environ.get('PATH', '')}",
        "PYTHONPATH": str(ROOT),
        "TORCH_EXTENSIONS_DIR": str(folder / "extensions"),
        "LONGTAKE_CACHE": str(folder / "cache-of-choices"),  # the warm-up finds which attention is fastest
    }
    # Bytecode is kept, as in any installation; without it each of our starts would compile 400 modules, and
    # the script 60.
    for name in ("CC", "CXX", "PYTHONDONTWRITEBYTECODE"):
        environment.pop(name, None)
    return environment, lambda: calls.read_text(encoding="utf-8").splitlines() if calls.exists() else []


def _built(environment: dict[str, str]) -> int:
    return len(published_below(Path(environment["TORCH_EXTENSIONS_DIR"])))


def _first_line(command: list[str], environment: dict[str, str]) -> str:
    """Return the first line that a process prints; it is killed then."""
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        if not line:
            raise WorkError(f"no step was taken: {process.stderr.read()[-2000:]}")
        process.kill()
    return line.strip()


def _is_step(line: str) -> bool:
    return line == "step"
