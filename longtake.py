"""longtake from Python: sample from a run, read a latent cache, do any job.

    import longtake

    run = longtake.open_run("runs/train")
    samples = run.sample(count=16, sampler={"guidance": 2.0})  # what `longtake sample` would write
    latents = longtake.open_cache("runs/latents")  # a torch.utils.data.Dataset
    longtake.train("my.yaml", trainer={"steps": 1000})

Nothing heavy is imported before it is used. Mistakes raise `longtake.UserError`, failures
`longtake.WorkError`. `python -m longtake JOB ...` is the command line.
"""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import TYPE_CHECKING, Any

from launch.cli import foreign_package

if __name__ != "__main__" and (_foreign := foreign_package()):  # else the command line says it
    raise ImportError(f"longtake: {_foreign}")

from core.errors import EndedEarly, UserError, WorkError

if TYPE_CHECKING:
    from launch.python.caches import LatentCache
    from launch.python.sampled import Run

__all__ = ["EndedEarly", "UserError", "WorkError", "do", "open_cache", "open_run", "train"]


def open_run(folder: str | Path) -> Run:
    """Open a training run or an export; UserError where there is none."""
    from launch.python.sampled import Run

    return Run(Path(folder))


def open_cache(folder: str | Path, *, normalise: bool = True) -> LatentCache:
    """Open a latent cache as a dataset of single samples.

    normalise: whether latents come in unit scale, by the cache's own mean and deviation of each channel.
    """
    from launch.python.caches import LatentCache

    return LatentCache(Path(folder), normalise=normalise)


def train(*files: str | Path, **fields: Any) -> Path:
    """Train as `longtake train FILES FIELDS` does, or continue; return the folder of the run."""
    return do("train", *files, **fields)


def do(job: str, *files: str | Path, **fields: Any) -> Path:
    """Do a job of the command line, such as "shard" or "encode"; return its output.

    files: YAML files of settings.  fields: settings by name, those of sections in a dict, such as
    `trainer={"steps": 10}`.  UserError for a mistake in them, WorkError where the work fails, EndedEarly
    where it ended on a signal and the same call continues it.
    """
    from launch.python.doing import do as do_job

    return do_job(job, [Path(file) for file in files], fields)


if __name__ == "__main__":
    runpy.run_module("launch", run_name="__main__", alter_sys=True)
