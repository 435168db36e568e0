"""A run that begins from the weights of another: on any ranks, recorded, continued, refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from core.checkpoint.reader import CheckpointReader
from core.checkpoint.store import CheckpointStore
from core.checkpoint.weights import load_weights
from core.config.loading import load, read_yaml
from core.errors import UserError, WorkError
from core.records import read_rows
from data.dataset.index import Dataset
from models.weights import fingerprint
from tests.data.caches import make_cache
from tests.integration.tiny_run import (
    MODEL,
    OBJECTIVE,
    STEP,
    command,
    finish_ranks,
    make_autoencoder,
    make_latents,
)
from tools.export import job as export
from tools.runs.begun import describe_record
from tools.train import config as train_config
from tools.train.job import plan, run

pytestmark = pytest.mark.multiprocess
DONOR = (
    *("trainer.steps=4", "ema.decay=0.5", "ema.extra_decays=[0.25]", "optimizer.lr=0.02"),
    *("validation.every=4", "validation.samples=16"),
)
STILL = ("trainer.steps=1", "optimizer.lr=0", "engine.precision=fp32", "validation.samples=16")


def config(cache: Path, output: Path, *fields: str) -> train_config.Config:
    words = [
        f"source={cache}",
        f"output={output}",
        *MODEL,
        *OBJECTIVE,
        *STEP,
        "engine.precision=fp32",
        *fields,
    ]
    return load(train_config.Config, overrides=words)


def train(cache: Path, output: Path, *fields: str) -> Path:
    """Train in this process, on one rank."""
    run(config(cache, output, *fields))
    return output


@pytest.fixture(scope="module")
def donor(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Train a run that others begin from."""
    folder = tmp_path_factory.mktemp("donor") / "run"
    return train(cache, folder, *DONOR)


@pytest.fixture(scope="module")
def checkpoint(donor: Path) -> Path:
    newest = CheckpointStore(donor / "checkpoints").latest()
    assert newest is not None
    return newest


def weights(run: Path, which: str = "raw") -> dict[str, bytes]:
    return {name: tensor.numpy().tobytes() for name, tensor in load_weights(run, which).items()}


def told(capfd: pytest.CaptureFixture[str]) -> list[str]:
    return [line for line in capfd.readouterr().err.splitlines() if line.startswith("initial: ")]


def record(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "initial.json").read_text())
    return found


@pytest.mark.parametrize(
    ("stage", "ranks"),
    [
        (3, 2),
        *(pytest.param(stage, ranks, marks=pytest.mark.full) for stage, ranks in [(0, 2), (1, 2), (2, 2)]),
    ],
)
def test_the_weights_and_their_averages_are_the_same_bits_on_any_ranks_and_stage(
    cache: Path, donor: Path, tmp_path: Path, stage: int, ranks: int
) -> None:
    fields = (*STILL, f"initial={donor}", f"engine.zero_stage={stage}", "seed=5")
    ended = finish_ranks(ranks, command(cache, tmp_path / "run", *fields))
    output = "".join(text for _, text in ended)
    assert not any(status for status, _ in ended), output
    taken = weights(donor, "ema")
    assert weights(tmp_path / "run") == taken == weights(tmp_path / "run", "ema")
    assert output.count("initial: begins from the average 0.5 of step 4 in ") == 1


def test_the_first_loss_is_that_of_the_weights_and_the_record_says_where_they_are_from(
    cache: Path, donor: Path, checkpoint: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    begun = train(cache, tmp_path / "run", *STILL, f"initial={donor}@0.25", "validation.every=1")
    (there,), (here,) = (read_rows(folder / "validation.jsonl") for folder in (donor, begun))
    assert here["raw"] == there["0.25"]
    assert weights(begun) == weights(donor, "0.25") != weights(donor)
    assert read_yaml(begun / "config.yaml")["initial"] == f"{donor}@0.25"
    found = record(begun)
    assert found.pop("sha256") == fingerprint(load_weights(donor, "0.25"))
    expected = {
        "run": str(donor),
        "checkpoint": checkpoint.name,
        "step": 4,
        "weights": "0.25",
        "average": "0.25",
    }
    expected |= {"initial": f"{donor}@0.25", "taken": 30, "classes": ["label.table.weight"], "accepted": {}}
    assert found == {**expected, "places": [], "new": [], "left": []}
    said = told(capfd)
    assert said[1:4] == [
        "initial: 30 of 31 tensors are taken as they are",
        "initial: rows of label.table.weight by name: 10 known",
        "initial: latents are normalised as there",
    ]
    assert "optimizer.lr=0.0 (0.02 there)" in said[4]
    assert len(said) == 5


@pytest.mark.parametrize("which", ["run", "checkpoints", "checkpoint", "export"])
def test_a_run_a_checkpoint_and_an_export_are_the_same_weights(
    cache: Path, donor: Path, checkpoint: Path, tmp_path: Path, which: str
) -> None:
    exported = tmp_path / "with@sign"
    places = {"run": donor, "checkpoints": donor / "checkpoints", "checkpoint": checkpoint}
    place = places.get(which, exported)
    if which == "export":
        export.run(load(export.Config, overrides=[f"source={donor}", f"output={exported}"]))
    lines = plan(config(cache, tmp_path / "run", f"initial={place}"))
    assert any(line.startswith("initial: begins from the average 0.5 of step 4 in ") for line in lines)


def test_an_export_holds_one_set_of_weights_and_says_what_its_run_began_from(
    cache: Path, donor: Path, tmp_path: Path
) -> None:
    place, again = tmp_path / "exported", tmp_path / "again"
    export.run(load(export.Config, overrides=[f"source={donor}", f"output={place}"]))
    said = refusal(cache, tmp_path / "run", f"initial={place}@raw")
    assert said.endswith(f"expected no @raw: {place} holds the ema weights alone")
    begun = train(cache, tmp_path / "run", *STILL, f"initial={place}@0.5")
    assert weights(begun) == weights(donor, "ema")
    export.run(load(export.Config, overrides=[f"source={begun}", f"output={again}"]))
    assert record(again) == record(begun)
    (line,) = describe_record(again)
    assert line.startswith(f"began from the ema weights of step 4 of {place} (")


def test_a_run_continues_with_its_own_checkpoint_and_not_with_what_it_began_from(
    cache: Path, donor: Path, tmp_path: Path
) -> None:
    first = shutil.copytree(donor, tmp_path / "first")
    fields = ("optimizer.lr=0.02", "optimizer.schedule=constant", "optimizer.warmup_steps=0")
    whole = train(cache, tmp_path / "whole", *fields, "trainer.steps=4", f"initial={first}")
    begun = train(cache, tmp_path / "run", *fields, "trainer.steps=2", f"initial={first}")
    moved, more = first.rename(tmp_path / "moved"), (*fields, "trainer.steps=4")
    for changed, expected in (((), "with weights="), ((f"initial={donor}@raw",), "this has ")):
        with pytest.raises(UserError, match=rf"^initial=.*{expected}.*overwrite=true would remove"):
            train(cache, begun, *more, *changed)
    train(cache, begun, *more, f"initial={first}")  # nothing is there any more, and nothing is read
    assert weights(begun) == weights(whole)
    train(cache, begun, *fields, "trainer.steps=5", f"initial={moved}")
    assert read_yaml(begun / "config.yaml")["initial"] == str(moved)


def test_stopped_before_its_first_checkpoint_it_takes_the_same_weights_though_the_other_run_went_on(
    cache: Path, donor: Path, tmp_path: Path
) -> None:
    first, words = shutil.copytree(donor, tmp_path / "first"), (*STILL, f"initial={tmp_path / 'first'}")
    begun = train(cache, tmp_path / "run", *words)
    shutil.rmtree(begun / "checkpoints")
    for name in ("finished.json", "metrics.jsonl"):
        (begun / name).unlink()
    train(cache, first, *DONOR, "trainer.steps=6")
    train(cache, begun, *words)
    assert weights(begun) == weights(donor, "ema") != weights(first, "ema")


def other_cache(folder: Path, cache: Path, shape: tuple[int, ...], *classes: str, **text: Any) -> Path:
    """Make a cache like the usual one, but of other shapes, or classes."""
    usual = Dataset(cache).manifest
    made = make_cache(folder, [[shape] * 16])
    statistics = {"mean": [0.5] * 3, "std": [2.0] * 3, "count": 1}
    extra = {**made.manifest.extra, "made_from": usual.extra["made_from"], "statistics": statistics}
    replace(made.manifest, extra=extra, classes=classes or usual.classes).write(folder)
    shutil.copy(cache / "config.yaml", folder)
    return folder


def test_another_resolution_keeps_the_normalisation_unless_another_is_typed(
    cache: Path, donor: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    larger = other_cache(tmp_path / "larger", cache, (2, 3, 1, 8, 8))
    there = json.loads((donor / "latents.json").read_text())
    found = {}
    for typed in ((), ("latents.normalise=measured",)):
        begun = train(larger, tmp_path / f"run{len(typed)}", *STILL, f"initial={donor}", *typed)
        found[typed] = json.loads((begun / "latents.json").read_text())
        assert weights(begun) == weights(donor, "ema")
    kept, measured = found.values()
    assert (kept["mean"], kept["std"], kept["normalise"]) == (there["mean"], there["std"], "initial")
    assert (measured["mean"], measured["normalise"]) == ([0.5] * 3, "measured")
    said = told(capfd)
    assert "initial: latents of 3x1x4x4, 3x3x4x4 there, of 3x1x8x8 here" in said
    assert "initial: there is no learned table of places: new ones are computed as the old ones were" in said
    assert "initial: latents are normalised by latents.normalise=measured, not as there" in said


def test_classes_are_known_by_their_names(cache: Path, donor: Path, tmp_path: Path) -> None:
    named = other_cache(tmp_path / "named", cache, (2, 3, 1, 4, 4), "3", "fox", "1", *map(str, range(20, 27)))
    begun = train(named, tmp_path / "run", *STILL, f"initial={donor}@raw", "processes=1")
    table, there = (load_weights(folder, "raw")["label.table.weight"] for folder in (begun, donor))
    assert torch.equal(table, there[[3, 10, 1, *[10] * 7, 10]])


def refusal(cache: Path, output: Path, *fields: str) -> str:
    with pytest.raises(UserError) as refused:
        plan(config(cache, output, *fields))
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_what_weights_depend_on_is_refused_until_it_is_accepted_by_name(
    cache: Path, donor: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flow = (f"initial={donor}", "objective.path=rectified_flow", "objective.prediction=flow")
    said = refusal(cache, tmp_path / "run", *flow)
    assert said.startswith("initial_accept=[]: expected [path, prediction, time_input], since ")
    assert "path: ddpm_linear there and rectified_flow here; prediction: noise there and flow here" in said
    assert "time_input: -1 to 999 there and 0 to 1000 here" in said
    said = refusal(cache, tmp_path / "run", *flow, "initial_accept=[path,time_input]")
    assert said.startswith(
        "initial_accept=[path, time_input]: expected [path, time_input, prediction], since "
    )
    make_autoencoder(tmp_path / "autoencoder", seed=1)
    foreign = make_latents(tmp_path / "latents", tmp_path / "autoencoder")
    said = refusal(foreign, tmp_path / "run", f"initial={donor}")
    assert said.startswith("initial_accept=[]: expected [autoencoder], since ")
    begun = train(foreign, tmp_path / "run", *STILL, f"initial={donor}", "initial_accept=[autoencoder]")
    assert json.loads((begun / "latents.json").read_text())["normalise"] == "measured"
    assert list(record(begun)["accepted"]) == ["autoencoder"]
    assert "initial: latents are normalised as measured here, since the autoencoder is another one" in told(
        capfd
    )


Make = Callable[[Path, Path], str]


def _no_checkpoint(donor: Path, folder: Path) -> str:
    shutil.copytree(donor, folder / "begun", ignore=shutil.ignore_patterns("checkpoints"))
    return str(folder / "begun")


def _incomplete(donor: Path, folder: Path) -> str:
    shutil.copytree(donor, folder / "cut")
    path = CheckpointStore(folder / "cut" / "checkpoints").latest()
    assert path is not None
    (path / "manifest.json").unlink()
    return str(path)


def _alone(donor: Path, folder: Path) -> str:
    path = CheckpointStore(donor / "checkpoints").latest()
    assert path is not None
    shutil.copytree(path, folder / "alone" / path.name)
    return str(folder / "alone" / path.name)


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (
            lambda donor, folder: f"{folder}/none",
            "a run, one of its checkpoints, or an export; nothing is there",
        ),
        (lambda donor, folder: f"{donor}/autoencoder", "this is an autoencoder, and no run"),
        (lambda donor, folder: f"{donor}@0.75", "@ and one of raw, ema, 0.5, 0.25 after the place"),
        (lambda donor, folder: f"{donor}@", "PLACE, or PLACE@AVERAGE"),
        (lambda donor, folder: str(donor.parent / "a@b"), "an export; nothing is there"),
        (lambda donor, folder: f"{donor}/latents.json", "a run, one of its checkpoints, or an export"),
        (_no_checkpoint, "a run that has saved a checkpoint"),
        (_incomplete, "a complete checkpoint; this one has no manifest.json"),
        (_alone, "a checkpoint within its run, whose config.yaml says what it is of"),
    ],
    ids=["nothing", "autoencoder", "average", "sign", "at", "file", "no checkpoint", "incomplete", "alone"],
)
def test_what_holds_no_such_weights_is_refused(
    cache: Path, donor: Path, tmp_path: Path, make: Make, expected: str
) -> None:
    place = make(donor, tmp_path)
    said = refusal(cache, tmp_path / "run", f"initial={place}")
    assert said.startswith(f"initial={place}: expected ")
    assert expected in said


def test_fields_that_need_others_and_networks_that_do_not_fit_are_refused(
    cache: Path, donor: Path, tmp_path: Path
) -> None:
    output = tmp_path / "run"
    assert (
        refusal(cache, output, "initial_accept=[path]")
        == "initial_accept=['path']: expected [] without initial=..."
    )
    assert "without initial=" in refusal(cache, output, "latents.normalise=initial")
    said = refusal(cache, output, f"initial={donor}", "model.width=32")
    assert said.startswith("model.width=32: expected 16, with which ")
    assert "is (32, 12) here and (16, 12) there" in said
    assert refusal(cache, output, f"initial={donor}", "model.heads=4").startswith("model.heads=4: expected 2")
    said = refusal(cache, donor, f"initial={donor}", "overwrite=true")
    assert said.endswith(f"expected a place outside {donor}, which this run writes")
    assert (donor / "finished.json").is_file()


def test_a_damaged_file_is_named_and_no_other_checkpoint_taken(
    cache: Path, donor: Path, tmp_path: Path
) -> None:
    shutil.copytree(donor, tmp_path / "damaged")
    path = CheckpointStore(tmp_path / "damaged" / "checkpoints").latest()
    assert path is not None
    (file,) = path.glob("rank-*.safetensors")
    content = np.fromfile(file, np.uint8)
    content[-5] ^= 1
    content.tofile(file)
    with pytest.raises(WorkError, match=r"rank-00000\.safetensors differs from its SHA-256"):
        train(cache, tmp_path / "run", *STILL, f"initial={tmp_path / 'damaged'}")
    assert CheckpointReader(path).manifest["number"]
