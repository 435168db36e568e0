"""Outputs of commit 30fc6aa still open, and continue as they would have there.

The folders are in tests/fixtures/30fc6aa; make_30fc6aa.py beside it made them with the code of that commit.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.checkpoint import exported
from core.config.loading import load
from core.distributed.ranks import World
from core.records import read_rows
from core.root import ROOT
from data.latent.pack_reading import read_part
from launch import cli
from tests.tools.train import opened
from tools.runs import score_names
from tools.runs.rulers import BESIDE_SCORES
from tools.runs.samples import Samples
from tools.train import job as train

FIXTURE = ROOT / "tests" / "fixtures" / "30fc6aa"
EXPECTED: dict[str, Any] = json.loads((FIXTURE / "expected.json").read_text())
COMMANDS: dict[str, str] = EXPECTED["commands"]
EARLY_END = 7  # the step after which the run was asked to end


@pytest.fixture(autouse=True)
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a copy of the folders the current folder, since all paths that they record are relative."""
    folder = Path(shutil.copytree(FIXTURE, tmp_path / "copy"))
    monkeypatch.chdir(folder)
    return folder


def run(command: str) -> None:
    assert cli.main(command.split()) == 0, command


def contents(folder: str) -> dict[str, str]:
    files = (path for path in Path(folder).rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.parametrize("action", ["show", "verify"])
def test_inspect_opens_whatever_there_is(action: str) -> None:
    for place in ("raw", "latents", "run", "run/checkpoints/step-00000004.local.1", "autoencoder", "export"):
        run(f"inspect {place} action={action}")


@pytest.mark.parametrize(
    ("job", "output"),
    [
        ("shard", "raw"),
        ("train-autoencoder", "autoencoder"),
        ("encode", "latents"),
        ("sample", "samples"),
        ("evaluate", "scores"),
    ],
)
def test_the_same_command_finds_its_output_finished(job: str, output: str) -> None:
    before = contents(output)
    run(COMMANDS[job])
    assert contents(output) == before


def test_a_command_that_names_no_engine_keeps_that_of_the_run() -> None:
    """Whatever is usual today: it was begun uncompiled, by another version, at the stage that it records."""
    config = load(train.Config, overrides=["source=latents", "output=run", "engine.device=cpu"])
    assert (config.engine.compile, config.engine.zero_stage, config.engine.micro_batch) == (False, 1, 0)
    named = load(train.Config, overrides=["source=latents", "output=run", "engine.zero_stage=2"])
    assert (named.engine.compile, named.engine.zero_stage) == (False, 2)
    assert load(train.Config, overrides=["source=latents", "output=other"]).engine.compile == "auto"


def test_a_run_goes_on_with_the_steps_it_would_have_done() -> None:
    assert len(read_rows(Path("run/metrics.jsonl"))) == EARLY_END
    run(COMMANDS["train"])
    require_expected_steps(Path("run"))
    assert Path("run/finished.json").exists()


def test_an_index_made_anew_lets_a_run_go_on_and_compare_every_sample() -> None:
    assert not Path("latents/crc.npy").exists()
    run("inspect latents action=reindex")
    run(COMMANDS["train"] + " data.verify=samples")
    require_expected_steps(Path("run"))


def test_a_run_begun_anew_does_the_same_steps() -> None:
    run(COMMANDS["train"].replace("output=run", "output=anew"))
    require_expected_steps(Path("anew"))


def require_expected_steps(folder: Path) -> None:
    """Require equal order, learning rate and counts, and losses equal to the rounding of another machine."""
    rows = read_rows(folder / "metrics.jsonl")
    assert len(rows) == len(EXPECTED["rows"])
    for row, expected in zip(rows, EXPECTED["rows"], strict=True):
        assert [row[name] for name in ("step", "lr", "samples", "tokens")] == [
            expected[name] for name in ("step", "lr", "samples", "tokens")
        ]
        for name in ("loss", "grad_norm"):
            assert row[name] == pytest.approx(expected[name], rel=1e-5), (name, row["step"])
    validated = read_rows(folder / "validation.jsonl")
    for row, expected in zip(validated, EXPECTED["validation"], strict=True):
        losses = {name: part["loss"] for name, part in expected.items() if name != "step"}
        assert row["step"] == expected["step"]
        assert {name: row[name]["loss"] for name in losses} == pytest.approx(losses, rel=1e-5)


def test_a_run_takes_the_samples_it_would_have_taken() -> None:
    config = load(train.Config, [Path("run/config.yaml")])
    source, _ = opened.open_checked(config)
    loader = opened.load_data(config, source, World(0, 1, 0, torch.device("cpu")))[0].loader
    for step, expected in enumerate(EXPECTED["order"]):
        batches = list(loader.load(step))
        assert [batch.id.tolist() for batch in batches] == expected["ids"], step
        assert [batch.order_hash for batch in batches] == expected["order_hash"], step


@pytest.mark.parametrize("source", ["run", "export"])
def test_weights_give_the_same_samples(source: str) -> None:
    run(COMMANDS["sample"].replace("sample run output=samples", f"sample {source} output=again"))
    pixels, labels = Samples.read(Path("again")).load()
    before, labels_before = Samples.read(Path("samples")).load()
    np.testing.assert_array_equal(labels, labels_before)
    assert np.abs(pixels.astype(int) - before).max() <= 1


def test_evaluate_reads_samples() -> None:
    run(COMMANDS["evaluate"].replace("output=scores", "output=again"))
    scores, before = (json.loads(Path(f"{name}/scores.json").read_text()) for name in ("again", "scores"))
    # Whose samples they are, by what they were measured, these scores and intervals are said since.
    since = {"frechet_heldout", "frechet_noise", "copies", "copies_real", *BESIDE_SCORES}
    since |= {score_names.interval(name) for name in (*before, "copies")}
    assert scores.keys() - since == before.keys()
    counts = {name for name, value in before.items() if isinstance(value, int)}
    assert {name: scores[name] for name in counts} == {name: before[name] for name in counts}
    assert scores["psnr_db"] == pytest.approx(before["psnr_db"], abs=0.05)


def test_a_run_is_exported_with_the_same_weights() -> None:
    run(COMMANDS["export"].replace("output=export", "output=again"))
    weights, before = exported.load(Path("again")), exported.load(Path("export"))
    assert weights.keys() == before.keys()
    for name, value in before.items():
        torch.testing.assert_close(weights[name], value, rtol=0, atol=0, msg=name)


def test_an_average_of_another_length_is_found_from_snapshots() -> None:
    run("export run output=sigma ema_sigma=0.08")
    norms = {name: float(value.norm()) for name, value in exported.load(Path("sigma")).items()}
    assert norms == pytest.approx(EXPECTED["sigma"], rel=1e-4, abs=1e-6)


def test_an_autoencoder_encodes_to_the_same_latents() -> None:
    run(COMMANDS["encode"].replace("output=latents", "output=again"))
    run("encode raw autoencoder=autoencoder output=again action=verify")
    for tar in sorted(Path("latents").glob("*.tar")):
        for pack, before in zip(read_part(Path("again") / tar.name), read_part(tar), strict=True):
            np.testing.assert_array_equal(pack.ids, before.ids)
            np.testing.assert_allclose(pack.latents, before.latents, rtol=2e-3, atol=2e-3)
