"""Validation within a training job. Run: pytest tests/integration/test_train_validation.py"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from core.config.loading import load
from core.distributed.ranks import World
from core.errors import UserError
from core.metrics.rank_report import ALONE
from core.records import read_rows
from core.root import ROOT
from models.denoisers.network import train_flops
from tests.data.caches import IMAGE
from tests.integration.tiny_run import MODEL, OBJECTIVE, STEP, make_autoencoder, make_latents
from tests.tools.train.opened import load_data, open_checked
from tools.train.config import Config
from tools.train.job import run
from tools.train.training_data import validation_batches
from tools.train.workload import Workload

# What a row has only of some runs.
RARE = ("mfu", "mfu_of_matmul", "passed_over", "squared_error", "bound_bits", *ALONE)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    make_autoencoder(folder / "autoencoder")
    return make_latents(folder / "latents", folder / "autoencoder")


def config(cache: Path, output: Path, *fields: str) -> Config:
    common = (f"source={cache}", f"output={output}", *MODEL, *OBJECTIVE, *STEP)
    return load(Config, overrides=[*common, *fields])


def test_a_job_validates_on_held_out_samples_and_counts_its_arithmetic(cache: Path, tmp_path: Path) -> None:
    held_out = make_latents(tmp_path / "held-out", cache.parent / "autoencoder")
    fields = ("trainer.steps=2", "validation.every=1", "validation.samples=20", "validation.strata=2")
    run(config(cache, tmp_path / "run", *fields, f"validation_source={held_out}", "metrics.log_every=1"))
    validated = read_rows(tmp_path / "run" / "validation.jsonl")
    assert [row["step"] for row in validated] == [1, 2]
    assert validated[0]["raw"]["loss"] != validated[1]["raw"]["loss"] > 0
    row = read_rows(tmp_path / "run" / "metrics.jsonl")[-1]
    assert row["tflops_per_s"] > 0
    assert row["ranks"]["memory_gb"] > 0
    assert "mfu" not in row  # the CPU is in no table
    told = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    for name in [*row, *row["ranks"], *RARE]:
        assert f"`{name}`" in told


def test_any_number_of_ranks_validates_on_the_same_samples(cache: Path, tmp_path: Path) -> None:
    settings = config(cache, tmp_path / "run", "validation.samples=20")
    source, _ = open_checked(settings)

    def samples(ranks: int) -> list[int]:
        found: list[int] = []
        for rank in range(ranks):
            world = World(rank, ranks, rank, torch.device("cpu"))
            _, (_, loader) = load_data(settings, source, world)
            batches = validation_batches(loader, 20, ranks)
            assert [b.id.tolist() for b in batches()] == [b.id.tolist() for b in batches()]
            found += [int(i) for batch in batches() for i in batch.id]
        return sorted(found)

    assert samples(1) == samples(2) == samples(4)
    assert len(samples(1)) == 32  # two steps of 16


def test_runs_of_any_seed_validate_on_the_same_held_out_samples(cache: Path, tmp_path: Path) -> None:
    held_out = make_latents(tmp_path / "held-out", cache.parent / "autoencoder", [[IMAGE] * 60])
    world = World(0, 1, 0, torch.device("cpu"))

    def samples(*fields: str) -> list[list[int]]:
        settings = config(cache, tmp_path / "run", "validation.samples=20", *fields)
        source, _ = open_checked(settings)
        _, (_, loader) = load_data(settings, source, world)
        return [batch.id.tolist() for batch in validation_batches(loader, 20, ranks=1)()]

    same = f"validation_source={held_out}"
    assert samples(same, "seed=1") == samples(same, "seed=2")
    assert samples("seed=1") != samples("seed=2")


def test_samples_of_another_encoder_are_refused(cache: Path, tmp_path: Path) -> None:
    make_autoencoder(tmp_path / "autoencoder", seed=1)
    other = make_latents(tmp_path / "other", tmp_path / "autoencoder")
    settings = config(cache, tmp_path / "run", f"validation_source={other}")
    source, _ = open_checked(settings)
    world = World(0, 1, 0, torch.device("cpu"))
    with pytest.raises(UserError, match=r"validation_source=.*: expected a cache made by the encoder of"):
        load_data(settings, source, world)


def test_work_is_counted_by_sample(cache: Path, tmp_path: Path) -> None:
    settings = config(cache, tmp_path / "run")
    source, _ = open_checked(settings)
    (_, loader), _ = load_data(settings, source, World(0, 1, 0, torch.device("cpu")))
    batch = loader.load(0)[0]
    frames, rows, columns = batch.x.shape[-3:]
    model = settings.model
    tokens, flops = Workload(model, source.latent_grid, passes=3).of(batch)
    assert flops == len(batch) * train_flops(model, (frames, rows, columns))
    assert tokens == len(batch) * frames * (rows // model.patch[1]) * (columns // model.patch[2])
