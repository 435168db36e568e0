"""The whole chain at its tiny scale: every stage runs once, and then only what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from core.errors import UserError
from core.root import ROOT
from launch import cli
from launch.demo import job as demo
from launch.demo.stages import Stage
from tools.runs.samples import Samples

NAMES = ["digits", "shard", "train-autoencoder", "encode", "train", "sample", "evaluate"]


@pytest.mark.multiprocess
def test_tiny_demo_runs_every_stage_and_then_only_what_is_missing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("sklearn")
    output = tmp_path / "demo"
    config = demo.Config(output=str(output), scale="tiny")
    demo.run(config)
    result = json.loads((output / "demo.json").read_text())
    assert [stage["name"] for stage in result["stages"]] == NAMES
    assert all(stage["seconds"] > 0 for stage in result["stages"])
    assert set(result) == {"stages", *demo.REPORTED}
    assert all(isinstance(result[key], float) for key in demo.REPORTED)  # poor ones, after so few steps
    with np.load(output / "samples/clips/samples.npz") as arrays:
        assert arrays["arr_0"].shape == (10, 17, 32, 32, 3)
        assert arrays["labels"].tolist() == list(range(10))
    page = (output / "report.html").read_text()
    assert "samples/images" in page
    assert page.count("data:image/png") == 5  # generated, real, clips, reconstructions, the data
    assert "python -m launch train configs/demo/" in page.replace(str(ROOT) + "/", "")

    recipes = [str(demo.RECIPES / folder / "sample-clips.yaml") for folder in ("", "tiny")]
    ranks = [f"source={output / 'run'}", f"output={output / 'two'}", "processes=2", "batch=2"]
    assert cli.main(["sample", *recipes, *ranks]) == 0
    one, two = (Samples.read(output / name).load()[0] for name in ("samples/clips", "two"))
    assert np.abs(one.astype(int) - two).max() <= 1  # other batches, on two ranks

    run_checkpoint = next((output / "run/checkpoints").glob("step-*/manifest.json"))
    untouched = run_checkpoint.stat().st_mtime_ns
    (output / "scores/scores.json").unlink()
    capfd.readouterr()
    demo.run(config)
    err = capfd.readouterr().err
    assert [name for name in NAMES if f"{name}: finished earlier" in err] == [
        name for name in NAMES if name != "evaluate"
    ]
    assert run_checkpoint.stat().st_mtime_ns == untouched
    assert json.loads((output / "demo.json").read_text())["frechet"] == result["frechet"]


def commands(stages: list[Stage]) -> list[str]:
    return [command.text() for stage in stages for command in stage.commands()]


def test_plan_names_every_command() -> None:
    lines = demo.plan(demo.Config(output="x"))
    assert [line.split(":")[0] for line in lines] == [
        name for name in NAMES for _ in range({"shard": 3, "sample": 2}.get(name, 1))
    ]
    train = next(line for line in lines if line.startswith("train:"))
    assert train.endswith("source=x/latents processes=2 output=x/run seed=0")


def test_plan_of_a_folder_that_is_not_packed_yet(tmp_path: Path) -> None:
    lines = demo.plan(demo.Config(source=str(tmp_path), output=str(tmp_path / "new")))
    assert lines[0].startswith("shard: python -m launch shard")
    assert lines[2:] == [f"{name}: depends on what `shard` finds" for name in NAMES[2:]]


def test_a_missing_source_and_foreign_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="source=/nothing/here: expected an existing folder"):
        demo.Config(source="/nothing/here")
    (tmp_path / "mine.txt").touch()
    with pytest.raises(UserError, match="expected a new or empty folder"):
        demo.run(demo.Config(output=str(tmp_path)))


def test_recipes_are_those_of_the_scale() -> None:
    tiny = demo.Chain(demo.Config(output="x", scale="tiny"))
    full = demo.Chain(demo.Config(output="x"))
    assert not any("tiny" in text for text in commands(full.stages()))
    encoder = next(text for text in commands(tiny.stages()) if " train-autoencoder " in text)
    recipe = "demo/{}train-autoencoder.yaml"
    assert encoder.index(recipe.format("")) < encoder.index(recipe.format("tiny/"))
