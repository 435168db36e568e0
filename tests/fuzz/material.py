"""One of every kind of file that the project reads, made by its own jobs in less than ten seconds."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow
from pyarrow import parquet

from core.files import write_json
from core.queue.failures import Failure, Failures
from core.queue.leases import Leases
from core.queue.shared_job import LEASES
from core.root import ROOT
from tests.fuzz.forking import Ended
from tools.runs.samples import ARRAYS, Samples, read_made_from
from tools.sample.parts import FOLDER, Decoded, Parts
from tools.sample.units import CUT

FILES = ROOT / "tests" / "fixtures" / "30fc6aa" / "files"
SHAPES = "[[1,16,16],[5,16,16]]"
SMALL = "data.group_size=4 data.rank_multiple=2 engine.precision=fp32 engine.device=cpu"
AUTOENCODER = (
    f"train-autoencoder raw data.buckets.shapes={SHAPES} {SMALL} model.latent_channels=2"
    " model.spatial_compression=4 model.temporal_compression=2 model.width=2 model.channel_multipliers=[1,1]"
    " model.blocks=1 trainer.steps=2 output="
)
QUEUE = "queue.timeout_s=1 queue.heartbeat_s=0.2"  # so that no lease is waited for a minute
ENCODE = (
    f"encode raw autoencoder=autoencoder flip=true batch=4 device=cpu buckets.shapes={SHAPES} {QUEUE} output="
)
TRAIN = (
    f"train latents {SMALL} data.groups_per_step=2 data.shuffle_shards=1 model.input_channels=2"
    " model.width=16 model.depth=1 model.heads=2 model.mlp_ratio=2 model.num_classes=2 optimizer.lr=1e-2"
    " optimizer.warmup_steps=1 ema.decay=0.9 ema.power_widths=[0.05,0.1] ema.snapshot_every=2 trainer.steps=4"
    " trainer.save_every=2 metrics.log_every=1 validation.every=2 validation.samples=8 validation.strata=2"
    " output="
)
SAMPLE = f"sample run count=12 batch=6 sampler.steps=2 device=cpu {QUEUE} output="
SHARD = "shard files samples_per_shard=8 output="
SURVEYED = "shard files samples_per_shard=8 filters.min_side=4 duplicates.exact=true output="
EVALUATE = "evaluate samples real=raw autoencoder=autoencoder steps=2 count=10 draws=1 output="
COMMANDS = (
    (f"{SHARD}raw", "", 0),
    (f"{AUTOENCODER}autoencoder", "", 0),
    (f"{ENCODE}latents", "", 0),
    (f"{TRAIN}run", "step.end@step=1:term", 75),
    (f"{SAMPLE}samples", "", 0),
    (f"{EVALUATE}scores", "", 0),
    ("export run output=export", "", 0),
    (f"{SURVEYED}sharding", "shard.manifest:kill", -9),
    (f"{ENCODE}encoding", "encode.manifest:kill", -9),
)

Run = Callable[[str, str], Ended]


def make(folder: Path, run: Run) -> None:
    """Fill a folder.  run: runs a command line with a fault armed there."""
    shutil.copytree(FILES, folder / "files")
    _write_tables(folder / "tables")
    _write_annotated(folder / "annotated")
    (folder / "prompts.txt").write_text("a disc\na square\n")
    (folder / "shard.yaml").write_text("source: files\nsamples_per_shard: 8\nlimits: {pixels: 1e6}\n")
    for command, fault, status in COMMANDS:
        ended = run(command, fault)
        assert ended.status == status, (command, ended)
    shutil.copytree(
        folder / "raw", folder / "tars", ignore=shutil.ignore_patterns("*.json", "*.npy", "*.yaml")
    )
    _leave_unfinished(folder)
    _write_demo(folder)
    _write_submission(folder)


def _write_demo(folder: Path) -> None:
    """Write the files of a demo that `report` reads."""
    stages = [{"name": "train", "commands": ["longtake train"], "identity": "a", "seconds": 1.5}]
    write_json(folder / "demo" / "stages.json", {"digits": True, "stages": stages})
    shutil.copytree(folder / "scores", folder / "demo" / "scores")
    for name in ("autoencoder", "run"):
        (folder / "demo" / name).mkdir()
        shutil.copyfile(folder / name / "metrics.jsonl", folder / "demo" / name / "metrics.jsonl")


def _write_submission(folder: Path) -> None:
    """Write the files of a job submitted to this machine that `jobs` reads."""
    place = folder / "submitted" / "submissions" / "0001"
    told = {"job": "train", "cluster": {"kind": "local"}, "cwd": ".", "after_output": "", "name": "submitted"}
    write_json(place / "submission.json", told)
    shutil.copyfile(folder / "run" / "config.yaml", place / "job.yaml")
    started = {"state": "failed", "reason": "lost", "started": 1.5, "node": "a", "pid": 0, "nodes": "a"}
    write_json(place / "attempts" / "local.0" / "attempt.json", started)
    shutil.copyfile(folder / "run" / "metrics.jsonl", folder / "submitted" / "metrics.jsonl")


def _leave_unfinished(folder: Path) -> None:
    """Leave what killed jobs do: an expired lease and a failure, and some parts of a cache and of samples."""
    (folder / "encoding" / ".receipts" / "000001.json").unlink()
    _leave_unit(folder / "encoding" / ".leases", "000001")
    shutil.copytree(folder / "samples", folder / "sampling")
    begun, finished = read_made_from(folder / "samples"), Samples.read(folder / "samples")
    assert begun is not None
    pixels = np.array(finished.load()[0][:6])
    Parts(folder / "sampling" / FOLDER, begun["sha256"], finished.count, pixels.shape[1:]).write(
        range(6), [Decoded(pixels)]
    )
    for name in ("samples.json", ARRAYS):
        (folder / "sampling" / name).unlink()
    _leave_unit(folder / "sampling" / LEASES, "000006-000011")
    write_json(folder / "sampling" / LEASES / CUT, {"samples": 6})


def _leave_unit(leases: Path, unit: str) -> None:
    """Leave what a worker does that failed at a unit, and was killed at its next attempt."""
    Failures(leases).record(Failure(unit, ("it was not there",), final=False))
    lease = Leases(leases, timeout_s=60).claim(unit)
    assert lease is not None
    os.utime(lease.path, (0, 0))


def _write_tables(folder: Path) -> None:
    """Write a table in every form, over pictures beside it."""
    shutil.copytree(FILES / "disc", folder, ignore=shutil.ignore_patterns("*.txt"))
    rows = [{"file_name": f"{n:02}.png", "text": f"a disc, “{n}”", "label": n % 2} for n in range(0, 12, 2)]
    with open(folder / "rows.csv", "w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    (folder / "rows.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (folder / "rows.json").write_text(json.dumps(rows))
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet")


def _write_annotated(folder: Path) -> None:
    """Write pictures with a JSON file or a class file beside them."""
    (folder / "a").mkdir(parents=True)
    for number in range(0, 12, 2):
        name = f"{number:02}"
        shutil.copyfile(FILES / "disc" / f"{name}.png", folder / "a" / f"{name}.png")
        if number < 8:
            about = {"caption": f"disc {name}", "label": number % 3}
            (folder / "a" / f"{name}.json").write_text(json.dumps(about))
        else:
            (folder / "a" / f"{name}.cls").write_text(str(number % 3))
