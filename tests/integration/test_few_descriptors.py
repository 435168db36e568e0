"""Jobs under 64 descriptors, on more shards and parts than that."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from core.root import ROOT
from tests.data.caches import CLIP, IMAGE
from tests.integration.tiny_run import MODEL, OBJECTIVE, STEP, make_autoencoder, make_latents

JOBS = """
import json, resource, sys
from launch import cli
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
for words in json.loads(sys.argv[1]):
    status = cli.main(words)
    assert status == 0, (words, status)
"""


def run_jobs(*commands: list[str]) -> None:
    """Run jobs one after the other in a process that may have 64 descriptors."""
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-W", "error::ResourceWarning", "-c", JOBS, json.dumps(commands)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=environment)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 shards of one picture, made and looked at under the limit."""
    root = tmp_path_factory.mktemp("raw")
    (root / "in").mkdir()
    for number in range(100):
        pixels = np.full((16, 16, 3), 2 * number, np.uint8)
        Image.fromarray(pixels).save(root / "in" / f"{number:03d}.png")
    sheet = ["rows=10", "columns=10", f"sheet={root / 'sheet.png'}"]
    run_jobs(
        ["shard", str(root / "in"), f"output={root / 'raw'}", "samples_per_shard=1", "shuffle=false"],
        ["inspect", str(root / "raw"), "action=verify"],
        ["inspect", str(root / "raw"), *sheet],
    )
    return root / "raw"


def test_many_shards_are_made_hashed_and_shown(raw: Path) -> None:
    manifest = json.loads((raw / "dataset.json").read_text())
    assert len(manifest["shards"]) == 100
    shown = np.asarray(Image.open(raw.parent / "sheet.png"))
    assert [int(shown[52 + 100 * row, 52 + 100 * column, 0]) for row, column in ((0, 0), (9, 9))] == [0, 198]


@pytest.mark.full
def test_many_shards_are_encoded_and_shown(raw: Path, tmp_path: Path) -> None:
    make_autoencoder(tmp_path / "autoencoder")
    cache, sheet = tmp_path / "cache", tmp_path / "sheet.png"
    run_jobs(
        [
            *("encode", str(raw), f"autoencoder={tmp_path / 'autoencoder'}", f"output={cache}"),
            *("buckets.resolution=16", "device=cpu"),
        ],
        ["inspect", str(cache), f"sheet={sheet}"],
    )
    assert json.loads((cache / "dataset.json").read_text())["totals"]["samples"] == 100
    assert sheet.is_file()


@pytest.mark.full
def test_a_mixture_trains_as_without_the_limit(tmp_path: Path) -> None:
    make_autoencoder(tmp_path / "autoencoder")
    shards = [[IMAGE] * 2, [CLIP] * 2] * 15
    first = make_latents(tmp_path / "0", tmp_path / "autoencoder", shards)
    others = [str(shutil.copytree(first, tmp_path / str(number))) for number in range(1, 9)]
    settings = [*MODEL, *OBJECTIVE, *STEP, "trainer.steps=3", f"data.also=[{','.join(others)}]"]
    command = ["train", str(first), *settings]
    run_jobs([*command, f"output={tmp_path / 'few'}"])
    environment = {**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"}
    words = [sys.executable, "-m", "launch", *command, f"output={tmp_path / 'many'}"]
    subprocess.run(words, check=True, cwd=ROOT, env=environment, capture_output=True)
    assert losses(tmp_path / "few") == losses(tmp_path / "many")


def losses(run: Path) -> list[tuple[float, str]]:
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    found = [(row["loss"], row["order_hash"]) for row in rows if "order_hash" in row]
    assert len(found) == 3
    return found
