"""What this machine has, for training, encoding and clusters."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from core.files import server_time
from core.preflight.node import driver_version, write_speed
from core.reading import open_files
from launch.doctor.finding import Finding

INSTALL = "pip install -c constraints.txt -e '.[{}]'"
OPTIONAL = {  # module: the extra that brings it, and for what
    "wandb": ("wandb", "metrics.wandb=true"),
    "tensorboard": ("tensorboard", "metrics.tensorboard=true"),
    "diffusers": ("public", "public autoencoders and text encoders"),
    "pyarrow": ("tables", "Parquet tables"),
    "fsspec": ("remote", "datasets in buckets"),
    "pillow_heif": ("heif", "HEIF photographs"),
    "imagehash": ("duplicates", "shard duplicates.near"),
    "scenedetect": ("scenes", "clips.cuts=pyscenedetect"),
    "sklearn": ("demo", "longtake demo"),
}
NEEDED = ("torch", "deepspeed", "webdataset", "einops", "omegaconf", "submitit", "numpy", "safetensors", "av")
ENCODERS = ("libx264", "libx265", "libsvtav1", "ffv1")
LEAST_FREE = 10 << 30  # bytes; below it a note
LEAST_FILES = 4096
SLURM = ("sbatch", "srun", "scontrol", "squeue", "scancel", "sinfo")


def look(folder: Path) -> Iterator[Finding]:
    """Yield what there is, and what is missing.  folder: where runs would be written."""
    yield _python()
    yield from _needed()
    yield from _devices()
    yield _optional()
    yield _slurm()
    yield from _disk(folder)
    yield _files()
    yield _codecs()
    yield _wandb()


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    return Finding("Python", f"{version}, {sys.executable}")


def _needed() -> Iterator[Finding]:
    versions = {package: _version(package) for package in NEEDED}
    lost = [package for package, version in versions.items() if not version]
    shown = ", ".join(f"{package} {version}" for package, version in versions.items() if version)
    yield Finding("packages", shown)
    if lost:
        remedy = "pip install -c constraints.txt -e ."
        yield Finding("packages", f"not installed: {', '.join(lost)}", "missing", remedy)


def _devices() -> Iterator[Finding]:
    if not _version("torch"):
        return
    import torch

    from core.engine.compiling import lacks_compiler
    from core.metrics.devices import by_driver
    from models.attention.dispatch import available, choose

    kind = "cuda" if torch.cuda.is_available() else "cpu"
    if kind == "cuda":
        for number in range(torch.cuda.device_count()):
            name = torch.cuda.get_device_name(number)
            memory = torch.cuda.get_device_properties(number).total_memory / 1e9
            known = by_driver(name)
            peak = f", {known.tflops:g} TFLOP/s in bf16" if known else ", not in the table of `longtake plan`"
            yield Finding(f"GPU {number}", f"{name}, {memory:.0f} GB{peak}")
        driver = driver_version() or "unknown"
        yield Finding("CUDA", f"{torch.version.cuda}, driver {driver}, NCCL {_nccl(torch)}")
    elif shutil.which("nvidia-smi"):
        remedy = f"install a build of torch for CUDA; this one is {torch.__version__}"
        yield Finding("GPU", "the driver is there, and torch sees no device", "note", remedy)
    else:
        yield Finding("GPU", f"none; {torch.get_num_threads()} threads of the CPU compute")
    tokens = torch.empty((1, 256, 1, 64), dtype=torch.bfloat16, device=kind)
    chosen = f"auto takes {choose(tokens)} by rule, and measures at the start of a run"
    yield Finding("attention", f"{', '.join(available(kind))} ({kind}); {chosen}")
    yield Finding("communication", _backends())
    if kind == "cuda" and (lacking := lacks_compiler(kind)):
        remedy = "pip install 'longtake[kernels]'" if "Triton" in lacking else "apt install gcc python3-dev"
        yield Finding("compiler", f"blocks are not compiled, since {lacking}", "note", remedy)


def _backends() -> str:
    """Say by what ranks can talk to one another."""
    import torch.distributed as dist

    found = {"gloo": dist.is_gloo_available(), "NCCL": dist.is_nccl_available()}
    return ", ".join(name if there else f"no {name}" for name, there in found.items())


def _nccl(torch: object) -> str:
    with contextlib.suppress(RuntimeError, AttributeError, TypeError):
        return ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[attr-defined]
    return "absent"


def _optional() -> Finding:
    absent = {
        extra: what for module, (extra, what) in OPTIONAL.items() if importlib.util.find_spec(module) is None
    }
    if not absent:
        return Finding("extras", "all installed")
    named = ", ".join(f"{extra} ({what})" for extra, what in absent.items())
    return Finding("extras", f"not installed: {named}", "note", INSTALL.format(",".join(absent)))


def _slurm() -> Finding:
    there = [name for name in SLURM if shutil.which(name)]
    if not there:
        return Finding("SLURM", "none: `longtake submit` runs jobs here (cluster.kind=local)")
    if lost := [name for name in SLURM if name not in there]:
        return Finding("SLURM", f"without {', '.join(lost)}", "note", "put SLURM's commands on the PATH")
    words = ["sinfo", "--noheader", "--format", "%P %D %a"]
    try:
        said = subprocess.run(words, capture_output=True, text=True, check=False, timeout=2)
    except subprocess.TimeoutExpired:
        return Finding("SLURM", "sinfo does not answer within 2 s", "note", "ask who runs the cluster")
    partitions = "; ".join(said.stdout.split("\n")[:6]).strip("; ")
    if said.returncode:
        return Finding("SLURM", said.stderr.strip().splitlines()[-1], "note")
    return Finding("SLURM", f"partitions, nodes, state: {partitions}")


def _disk(folder: Path) -> Iterator[Finding]:
    place = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(place).free
    state = "ok" if free >= LEAST_FREE else "note"
    if not os.access(place, os.W_OK):
        yield Finding("disk", f"{place} cannot be written", "missing", "take another folder")
        return
    try:
        speed = write_speed(place)
        ahead = server_time(place) - time.time()
    except OSError as error:
        remedy = "free some space, or take another folder"
        yield Finding("disk", f"{place}: {error.strerror}", "missing", remedy)
        return
    text = f"{place}: {free / 1e9:.0f} GB free, writes {speed / 1e6:.0f} MB/s"
    yield Finding("disk", text, state)  # type: ignore[arg-type]
    if abs(ahead) > 5:
        yield Finding("clock", f"the file server's differs by {ahead:.0f} s", "note", "set the clocks by NTP")


def _files() -> Finding:
    limit = open_files.limit()
    if limit < LEAST_FILES:
        return Finding("open files", f"at most {limit}", "note", f"ulimit -n {LEAST_FILES}")
    return Finding("open files", f"at most {limit}")


def _codecs() -> Finding:
    if not _version("av"):
        return Finding("video", "PyAV is not installed", "missing", "pip install -c constraints.txt -e .")
    from av.codec import codecs_available

    there = [name for name in ENCODERS if name in codecs_available]
    return Finding("video", f"PyAV {_version('av')}, encoders {', '.join(there) or 'none'}")


def _wandb() -> Finding:
    mode = os.environ.get("WANDB_MODE", "online")
    if importlib.util.find_spec("wandb") is None:
        return Finding("wandb", "not installed; metrics.jsonl is the record in any case")
    return Finding("wandb", f"{_version('wandb')}, mode {mode}")
