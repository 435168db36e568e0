"""A network that is no transformer, one file and one line of a table, is a network like any other."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from core.config.yaml_files import read_yaml
from core.run.folder import CONFIG
from tests.integration.test_train import state
from tests.integration.tiny_run import OBJECTIVE, STEP, command, finish, finish_ranks, rows

pytestmark = pytest.mark.multiprocess
PROGRAM = "tests.models.denoisers.conv"
MODEL = ("model.kind=conv", "model.input_channels=3", "model.width=8", "model.num_classes=10")
FIELDS = (
    *("trainer.steps=8", "trainer.save_every=3", "trainer.save_async=false", "metrics.log_every=2"),
    *("engine.zero_stage=1", "engine.precision=fp32", "optimizer.lr=0.01"),
)


def words(job: str, source: Path, output: Path, *fields: str) -> list[str]:
    return [sys.executable, "-m", PROGRAM, job, str(source), f"output={output}", *fields]


def train(cache: Path, run: Path, fault: str = "") -> list[int]:
    """Train on two ranks, each of which registers the network before it reads its words; their statuses."""
    job = words("train", cache, run, *MODEL, *OBJECTIVE, *STEP, *FIELDS)
    ended = finish_ranks(2, job, LONGTAKE_FAULT=fault)
    assert fault or not any(status for status, _ in ended), ended
    return [status for status, _ in ended]


@pytest.fixture(scope="module")
def whole(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("conv") / "run"
    train(cache, run)
    return run


def test_it_learns_and_its_run_says_what_it_is(whole: Path) -> None:
    losses = [row["loss"] for row in rows(whole)]
    assert len(losses) == 8
    assert sum(losses[-3:]) < sum(losses[:3])
    model = read_yaml(whole / CONFIG)["model"]
    assert next(iter(model.items())) == ("kind", "conv")
    assert "heads" not in model
    assert not (whole / "attention.json").exists(), "it has no attention of which a backend would be chosen"


def test_killed_it_continues_bit_for_bit(cache: Path, whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    of_rank_0, of_rank_1 = train(cache, run, "step.backward@rank=1,step=6:kill")
    assert of_rank_0 != 0
    assert of_rank_1 == -9
    assert len(rows(run)) < 8
    train(cache, run)
    assert rows(run) == rows(whole)
    assert state(run) == state(whole)


def test_it_samples_from_the_run_and_the_same_from_an_export(whole: Path, tmp_path: Path) -> None:
    status, output = finish(words("export", whole, tmp_path / "exported"))
    assert status == 0, output
    assert load_file(tmp_path / "exported" / "model.safetensors")["blocks.0.convolution.weight"].shape[0] == 8
    pixels = []
    for source in (whole, tmp_path / "exported"):
        target = tmp_path / f"samples of {source.name}"
        fields = ("count=4", "batch=2", "sampler.steps=2", "device=cpu")
        status, output = finish(words("sample", source, target, *fields))
        assert status == 0, output
        with np.load(target / "samples.npz") as arrays:
            pixels.append(arrays["arr_0"])
    assert len(pixels[0]) == 4
    assert np.array_equal(*pixels)


def test_the_plan_counts_its_parameters_and_operations(cache: Path, tmp_path: Path) -> None:
    job = words("train", cache, tmp_path / "run", *MODEL, *OBJECTIVE, *STEP, *FIELDS, "--dry-run")
    status, output = finish(job)
    assert status == 0, output
    assert "kind: conv" in output
    assert "# model: " in output
    assert "floating-point operations" in output


def test_help_shows_the_kinds_and_the_fields_of_the_one_that_is_asked_for() -> None:
    help = [sys.executable, "-m", PROGRAM, "train", "--help"]
    status, usual = finish(help)
    assert status == 0, usual
    assert "model.kind=dit  <dit|conv" in usual
    assert "model.kind=KIND --help" in usual
    assert "model.heads=" in usual
    _, other = finish([*help, "model.kind=conv"])
    assert "model.kind=conv  <dit|conv" in other
    assert "model.layers=2" in other
    assert "model.heads=" not in other


def test_without_it_its_run_is_not_opened_and_what_it_cannot_do_is_refused(
    cache: Path, whole: Path, tmp_path: Path
) -> None:
    job = [sys.executable, "-m", "launch", "sample", str(whole), f"output={tmp_path / 'samples'}", "count=1"]
    status, output = finish(job)
    assert (status, output.splitlines()[-1]) == (2, "longtake sample: model.kind=conv: expected dit")
    job = command(cache, tmp_path / "run", "model.kind=conv", "--dry-run")
    assert "model.kind=conv: expected dit" in finish(job)[1]
    job = words("train", cache, tmp_path / "run", *MODEL, "engine.sequence_parallel=2", "processes=2")
    status, output = finish([*job, "--dry-run"])
    expected = "1, since model.kind=conv cannot share the tokens of an input"
    assert (status, expected in output) == (2, True), output


def test_another_kind_is_refused_in_a_run_of_one(cache: Path, whole: Path) -> None:
    before = json.loads((whole / "finished.json").read_text())
    other = (*FIELDS, "processes=1", "model.kind=dit", "model.input_channels=3")
    status, output = finish(words("train", cache, whole, *OBJECTIVE, *STEP, *other))
    assert status == 2
    assert "model.kind=dit: expected conv" in output
    assert json.loads((whole / "finished.json").read_text()) == before
