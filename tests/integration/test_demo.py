"""The whole chain at its tiny scale: every stage runs once, and then only what is missing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from core.errors import UserError
from core.root import ROOT
from data.media.images import encode_mp4, encode_png
from launch.demo import job as demo
from launch.demo.chain import RECIPES
from launch.demo.score_table import REPORTED
from launch.demo.stages import Stage
from tests.core.ranks import run_ranks
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
    assert set(result) == {"stages", *REPORTED}
    assert all(isinstance(result[key], float) for key in REPORTED)  # poor ones, after so few steps
    with np.load(output / "samples/clips/samples.npz") as arrays:
        assert arrays["arr_0"].shape == (10, 17, 32, 32, 3)
        assert arrays["labels"].tolist() == list(range(10))
    page = (output / "report.html").read_text()
    assert "samples/images" in page
    assert page.count("data:image/png") == 6  # generated, real, closest, clips, reconstructions, the data
    assert "python -m launch train configs/demo/" in page.replace(str(ROOT) + "/", "")

    recipes = [str(RECIPES / folder / "sample-clips.yaml") for folder in ("", "tiny")]
    places = [f"source={output / 'run'}", f"output={output / 'two'}"]
    run_ranks(2, "-m", "launch", "sample", *recipes, *places, "batch=2")
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


@pytest.mark.full
@pytest.mark.multiprocess
def test_a_folder_of_pictures_and_clips_goes_through_every_stage(tmp_path: Path) -> None:
    source, random = tmp_path / "mine", np.random.default_rng(0)
    source.mkdir()
    for number in range(60):
        height, width = ((90, 120), (120, 90), (80, 140))[number % 3]
        small = random.integers(0, 256, (4, 4, 3), np.uint8)
        picture = small.repeat(40, 0).repeat(40, 1)[:height, :width]
        (source / f"{number}.png").write_bytes(encode_png(picture))
    for number in range(10):
        clip = random.integers(0, 256, (1, 6, 8, 3), np.uint8).repeat(12, 0).repeat(8, 1).repeat(8, 2)
        encode_mp4(source / f"{number}.mp4", clip, 10)
    output = tmp_path / "demo"
    config = demo.Config(source=str(source), output=str(output), scale="tiny", minutes=5)
    demo.run(config)
    result = json.loads((output / "demo.json").read_text())
    assert [stage["name"] for stage in result["stages"]] == NAMES[1:]
    assert result["class_agreement"] is None
    assert all(result[name] is not None for name in ("frechet_heldout", "frechet_noise", "copies", "psnr_db"))
    page = (output / "report.html").read_text()
    assert "what 5 minutes cannot give" in page
    assert "held-out pictures (right)" in page
    choice = (output / "choice.json").read_bytes()
    with np.load(output / "samples/images/samples.npz") as arrays:
        assert len(arrays["arr_0"]) == json.loads(choice)["images"]  # fewer than usual on a busy machine
    demo.run(config)
    assert (output / "choice.json").read_bytes() == choice


def commands(stages: list[Stage]) -> list[str]:
    return [command.text() for stage in stages for command in stage.commands()]


def test_plan_names_every_command() -> None:
    lines = demo.plan(demo.Config(output="x"))
    assert [line.split(":")[0] for line in lines] == [
        name for name in NAMES for _ in range({"shard": 3}.get(name, 1))
    ]
    train = next(line for line in lines if line.startswith("train:"))
    assert train.endswith("source=x/latents processes=2 output=x/run seed=0")


def test_images_are_guided_away_from_the_earliest_checkpoint_there_is(tmp_path: Path) -> None:
    config = demo.Config(output=str(tmp_path))
    assert demo.plan(config)[-2] == "sample: depends on the checkpoints that `train` leaves"
    for name in ("step-00001350.local.2", "step-00000675.local.1"):
        (tmp_path / "run/checkpoints" / name).mkdir(parents=True)
    images, clips = demo.plan(config)[-3:-1]
    assert "sampler.guide.weak=1.4" in images
    assert f"weak.source={tmp_path}/run weak.checkpoint=step-00000675.local.1" in images
    assert "weak" not in clips


def test_plan_of_a_folder_that_is_not_packed_yet(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/a.png").write_bytes(encode_png(np.zeros((8, 8, 3), np.uint8)))
    lines = demo.plan(demo.Config(source=str(tmp_path / "mine"), output=str(tmp_path / "new"), scale="tiny"))
    assert lines[0].startswith("the folder: 1 image, 0 videos, 0 classes")
    stages = lines[next(n for n, line in enumerate(lines) if line.startswith("shard: ")) :]
    assert stages[0].startswith("shard: python -m launch shard")
    assert stages[2:] == [f"{name}: depends on what `shard` finds" for name in NAMES[2:]]


def test_what_is_for_a_folder_is_refused_for_the_digits() -> None:
    with pytest.raises(UserError, match=r"minutes=5: expected 30\.0, or source=your folder"):
        demo.Config(minutes=5)
    with pytest.raises(UserError, match="text_encoder=t5: expected '', or source=your folder"):
        demo.Config(text_encoder="t5")


def test_a_missing_source_and_foreign_folder_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="source=/nothing/here: expected an existing folder"):
        demo.Config(source="/nothing/here")
    (tmp_path / "mine.txt").touch()
    with pytest.raises(UserError, match="expected a new or empty folder"):
        demo.run(demo.Config(output=str(tmp_path)))


def test_recipes_are_those_of_the_scale() -> None:
    tiny = demo.Config(output="x", scale="tiny").chain()
    full = demo.Config(output="x").chain()
    assert not any("tiny" in text for text in commands(full.stages()))
    encoder = next(text for text in commands(tiny.stages()) if " train-autoencoder " in text)
    recipe = "demo/{}train-autoencoder.yaml"
    assert encoder.index(recipe.format("")) < encoder.index(recipe.format("tiny/"))
