"""A tiny cache and a training job on it, as commands a person would type."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from core.files import write_text
from core.records import read_rows
from core.root import ROOT
from data.latent.normalising import LatentSums
from data.latent.pack_reading import read_part
from data.latent.packs import Shape
from models.autoencoder import store
from models.autoencoder.interface import settings_of
from models.autoencoder.kl import Autoencoder, KLConfig
from tests.core.ranks import finish as finish_all
from tests.core.ranks import run_alone, start_ranks
from tests.data.caches import CLIP, IMAGE, make_cache

AUTOENCODER = KLConfig(
    latent_channels=3,
    spatial_compression=2,
    temporal_compression=1,
    patch=2,
    width=8,
    channel_multipliers=(1,),
)
MODEL = ("model.input_channels=3", "model.width=16", "model.depth=2", "model.heads=2", "model.num_classes=10")
OBJECTIVE = ("objective.path=ddpm_linear", "objective.prediction=noise")  # learns in a dozen steps
STEP = ("data.group_size=8", "data.groups_per_step=2", "data.rank_multiple=8", "engine.device=cpu")


def make_autoencoder(folder: Path, seed: int = 0, width: int = AUTOENCODER.width) -> str:
    """Save an untrained autoencoder; return its fingerprint."""
    torch.manual_seed(seed)
    return store.save(Autoencoder(replace(AUTOENCODER, width=width)), folder)


def make_latents(
    folder: Path, autoencoder: Path, shards: Sequence[list[Shape]] = ([IMAGE] * 20, [CLIP] * 12)
) -> Path:
    """Make a cache of 20 images and 12 clips, with the facts that `encode` records; one image is absent."""
    cache = make_cache(folder, list(shards), absent=[5])
    packs = [pack for shard in cache.manifest.shards for pack in read_part(folder / shard.name)]
    first, *rest = [LatentSums.of(pack.latents) for pack in packs if len(pack.ids)]
    config = json.loads(json.dumps(settings_of(AUTOENCODER)))
    made_from = {"encoder": store.fingerprint(autoencoder), "encoder_config": config}
    extra = {"made_from": made_from, "statistics": sum(rest, first).statistics()}
    classes = tuple(str(number) for number in range(10))
    replace(cache.manifest, extra=extra, classes=classes).write(folder)
    write_text(
        folder / "config.yaml",
        f"# longtake: the resolved config of encode\nautoencoder: {autoencoder}\n",
    )
    return folder


def command(cache: Path, output: Path, *fields: str) -> list[str]:
    """Return the command line of a training job on the tiny cache."""
    return [
        sys.executable,
        "-m",
        "launch",
        "train",
        str(cache),
        f"output={output}",
        *MODEL,
        *OBJECTIVE,
        *STEP,
        *fields,
    ]


def start(words: list[str], **environment: str) -> subprocess.Popen[str]:
    """Start a job from the checkout, its output captured."""
    full = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1", **environment}
    return subprocess.Popen(
        words, cwd=ROOT, env=full, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def finish(words: list[str], **environment: str) -> tuple[int, str]:
    """Run a job to its end: its status and output.

    words: of a command line; it is done by a process that is forked where the jobs are imported already.
    """
    return run_alone(*words[1:], environment=environment)


def finish_ranks(count: int, words: list[str], **environment: str) -> list[tuple[int, str]]:
    """Run a job on ranks as an outside launcher starts them: status and output of each."""
    return finish_all(start_ranks(count, *words[1:], environment=environment), 300)


def rows(run: Path) -> list[dict[str, Any]]:
    """Return the rows of metrics.jsonl without values that depend on a clock."""
    timed = ("seconds", "samples_per_s", "tokens_per_s", "data_wait", "tflops_per_s", "ranks")
    found = read_rows(run / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name not in timed} for row in found]
