"""Configuration of where and how a job runs: the section `cluster` of `longtake submit`."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from core.config.settings import setting
from core.config.yaml_files import LARGEST
from core.errors import UserError
from core.files import read_bytes

_CLOCK = re.compile(r"^\s*minutes\s*:\s*(\d+:[\d:]+)", re.M)


@dataclass(frozen=True, kw_only=True)
class ClusterConfig:
    """Resources requested from SLURM, and how the ranks are started there."""

    kind: Literal["slurm", "local", "inline"] = setting(
        "slurm",
        "slurm: queued; local: in the background on this machine; inline: in the foreground on this machine",
    )
    nodes: int = setting(1, "number of nodes", low=1)
    tasks_per_node: int = setting(1, "ranks per node, one per GPU", low=1)
    array: int = setting(
        0,
        "number of array tasks that share `encode`, `sample` or `sweep`; 0 is one job",
        low=0,
    )
    array_limit: int = setting(0, "array tasks that run at once; 0 is no limit", low=0)
    cpus_per_task: int | None = setting(None, "CPUs per rank; null is SLURM's default", low=1)
    minutes: int = setting(
        60, "time limit of one start, at the end of which the job is requeued", unit="min", low=1
    )
    signal_s: int = setting(
        120,
        "time before the limit at which the job is asked to save and end; SLURM may ask 60 s earlier",
        unit="s",
        low=1,
    )
    partition: str = setting("", "SLURM's partition; '' is its default")
    account: str = setting("", "account to charge; '' is SLURM's default")
    qos: str = setting("", "quality of service; '' is SLURM's default")
    constraint: str = setting("", "features that nodes must have")
    exclude: str = setting("", "nodes not to use")
    nodelist: str = setting("", "nodes to use")
    gpus_per_node: str = setting("", "GPUs per node, such as 8 or h200:8; '' requests none")
    gres: str = setting("", "the same in SLURM's older form, such as gpu:8")
    memory_gib: int | None = setting(None, "memory per node; 0 is all of it", unit="GiB", low=0)
    wckey: str = setting("", "workload characterisation key, where a site asks for one")
    sbatch: tuple[str, ...] = setting(
        (), "more fields for sbatch, such as reservation=x or exclusive", shown="[field=value, ...]"
    )
    srun: tuple[str, ...] = setting(
        (), "more options for srun, such as --cpu-bind=cores", shown="[option, ...]"
    )
    setup: tuple[str, ...] = setting(
        (), "lines that the batch script runs first, such as module load cuda", shown="[line, ...]"
    )
    environment: tuple[str, ...] = setting(
        (),
        "environment variables of the ranks, each set only where it is not set already",
        shown="[NAME=value, ...]",
    )
    container_image: str = setting("", "image in which pyxis runs the ranks; '' is none")
    container_mounts: str = setting("", "what pyxis mounts, such as /scratch:/scratch")
    apptainer_image: str = setting("", "image in which apptainer runs the ranks; '' is none")
    python: str = setting(
        "",
        "Python interpreter of the ranks, which may be another in a container; '' is this one",
        shown="path",
    )
    preflight: bool = setting(
        True, "test every node before training, and continue without unfit ones; takes at most 10 s"
    )
    attempts: int = setting(3, "consecutive starts without a new step after which the job is given up", low=1)

    def __post_init__(self) -> None:
        for name, values in (("sbatch", self.sbatch), ("setup", self.setup)):
            if any("\n" in value for value in values):
                raise UserError(name, list(values), "no line breaks")
        for value in self.environment:
            if not re.fullmatch(r"[A-Za-z_]\w*=.*", value):
                raise UserError("environment", value, "NAME=value")
        if self.container_image and self.apptainer_image:
            raise UserError("apptainer_image", self.apptainer_image, "'' with container_image")
        if self.kind != "slurm" and self.nodes > 1:
            raise UserError("nodes", self.nodes, f"1 with kind={self.kind}")
        if self.kind == "inline" and self.array:
            raise UserError("array", self.array, "0 with kind=inline")
        if self.array_limit and not self.array:
            raise UserError("array_limit", self.array_limit, "0 without array")

    @property
    def world_size(self) -> int:
        """Number of ranks of the job."""
        return self.nodes * self.tasks_per_node


def refuse_clock_times(files: Sequence[Path]) -> None:
    """Raise UserError if a file gives minutes as a time of day: YAML reads 4:00:00 as the number 14400."""
    for file in files:
        if file.is_file() and (found := _CLOCK.search(read_bytes(file, LARGEST).decode("utf-8", "replace"))):
            expected = f"a whole number of minutes; YAML reads such a time as a number to base 60 (in {file})"
            raise UserError("cluster.minutes", found[1], expected)
