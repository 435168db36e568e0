"""Runs aligned with a picture encoder's features, as a person starts, loses and uses them."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from core.checkpoint.reader import CheckpointReader
from core.checkpoint.tensor_file import load_tensors
from core.checkpoint.weights import find, load_weights
from core.errors import UserError
from core.records import read_rows
from core.train.single import OBJECTIVE
from tests.data.raw_datasets import damage, make_raw
from tests.integration.test_train import state
from tests.integration.tiny_run import command, finish, finish_ranks, rows
from tests.models.public_models import save_dinov2
from tests.tools.encode.encode_runs import SHAPES, make_autoencoder, make_config
from tools.encode import job as encode

pytestmark = pytest.mark.multiprocess
MODEL_FIELDS = ("model.input_channels=4", "model.patch=[1,1,1]", "data.group_size=8")
STEPS = ("trainer.steps=8", "trainer.save_every=3", "metrics.log_every=2", "optimizer.lr=0.02")
ALIGNED = ("data.features=cached", "objective.alignment.projector_width=12", "objective.alignment.weight=2")
STRAIGHT = ("objective.path=rectified_flow", "objective.prediction=flow")
FIELDS = (*MODEL_FIELDS, *STEPS, "engine.precision=fp32")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make `raw`, `autoencoder`, `dino` and `cache`, encoded from them with features of both views."""
    folder = tmp_path_factory.mktemp("aligned")
    raw = make_raw(folder, images=14, clips=6)
    damage(raw, 6)
    config = make_config(raw, make_autoencoder(folder / "autoencoder"), folder / "cache")
    config = replace(config, flip=True, quarantine_budget=1, picture_patch=8)
    encode.run(replace(config, picture_encoder=str(save_dinov2(folder / "dino"))))
    return folder


def run(folder: Path, name: str, *fields: str, fault: str = "", fails: bool = False, ranks: int = 1) -> str:
    """Train in a folder of that name, and return the output of the first rank."""
    environment = {"LONGTAKE_FAULT": fault} if fault else {}
    words = command(folder / "cache", folder / name, *FIELDS, *fields)
    ended = finish_ranks(ranks, words, **environment) if ranks > 1 else [finish(words, **environment)]
    status, output = ended[0]
    assert (status != 0) == (fails or bool(fault)), output
    return output


def of_kind(kind: str) -> tuple[str, ...]:
    """Return the fields of an objective, of few steps on the straight path."""
    fields = (f"objective.kind={kind}", *(STRAIGHT if kind != "denoising" else ()))
    return (*fields, "model.two_times=true", "model.attention=math") if kind == "mean_flow" else fields


def losses(run: Path, column: str = "loss") -> list[float]:
    return [float(str(row[column])) for row in rows(run)]


@pytest.mark.parametrize(
    "kind",
    [
        "denoising",
        pytest.param("mean_flow", marks=pytest.mark.full),
        pytest.param("consistency", marks=pytest.mark.full),
        pytest.param("distillation", marks=pytest.mark.full),
    ],
)
def test_an_aligned_run_is_continued_to_the_bit_and_exports_the_network_alone(
    folder: Path, kind: str
) -> None:
    fields = (*ALIGNED, *of_kind(kind), "engine.zero_stage=2")
    if kind == "distillation":
        run(folder, "teacher", *STRAIGHT)
        fields += (f"initial={folder / 'teacher'}",)
    whole, killed = folder / f"{kind}-whole", folder / f"{kind}-killed"
    run(folder, whole.name, *fields, ranks=2)
    run(folder, killed.name, *fields, fault="save.commit@rank=0,step=6:kill", ranks=2)
    assert "continuing after step 3 " in run(folder, killed.name, *fields, ranks=2)
    assert rows(killed) == rows(whole)
    assert state(killed) == state(whole)
    assert {"alignment", "squared_error", "objective_grad_norm"} <= rows(whole)[0].keys()
    aligned = losses(whole, "alignment")
    assert aligned[-1] < aligned[0]
    if kind == "denoising":
        parts = losses(whole), losses(whole, "squared_error"), aligned
        for total, squared, distance in zip(*parts, strict=True):
            assert total == pytest.approx(squared + 2 * distance, rel=1e-5)
    own = CheckpointReader(find(whole), OBJECTIVE)
    assert {name.split(".")[1] for name in own.shapes} == {"projector"}
    assert not any(kind.startswith("ema") for kind in own.kinds)
    status, output = finish([sys.executable, "-m", "launch", "export", str(whole), f"output={folder / kind}"])
    assert status == 0, output
    assert load_tensors(folder / kind / "model.safetensors").keys() == load_weights(whole).keys()
    with pytest.raises(UserError, match="network"):
        load_weights(folder / kind, network=OBJECTIVE)


@pytest.mark.full
def test_a_weight_of_nothing_trains_the_same_network_to_the_bit(folder: Path) -> None:
    run(folder, "plain")
    run(folder, "nothing", *ALIGNED[:2], "objective.alignment.weight=0")
    assert losses(folder / "nothing", "squared_error") == losses(folder / "plain")
    plain, nothing = (load_weights(folder / name) for name in ("plain", "nothing"))
    assert all((nothing[name] == tensor).all() for name, tensor in plain.items())


@pytest.mark.full
@pytest.mark.parametrize(
    "fields",
    [
        ("engine.zero_stage=3", "processes=2", "engine.activation_checkpointing=full"),
        ("engine.zero_stage=1", "processes=2", "engine.sequence_parallel=2"),
        ("engine.kind=fsdp2", "engine.zero_stage=3", "processes=2"),
        ("engine.zero_stage=0", "engine.micro_batch=4", "objective.alignment.projector=conv"),
    ],
    ids=["zero3", "sequence", "fsdp2", "conv"],
)
def test_other_ways_to_share_a_step_agree_with_one_rank(folder: Path, fields: tuple[str, ...]) -> None:
    alone = "alone-conv" if "conv" in fields[-1] else "alone"
    if not (folder / alone).exists():
        run(folder, alone, *ALIGNED, *(fields[-1:] if "conv" in alone else ()))
    run(folder, fields[0], *ALIGNED, *fields)
    for column in ("loss", "alignment"):
        assert losses(folder / fields[0], column) == pytest.approx(losses(folder / alone, column), rel=2e-4)


@pytest.mark.full
def test_a_run_goes_on_with_other_ranks_and_beyond_the_end_of_the_alignment(folder: Path) -> None:
    fields = (*ALIGNED, "objective.alignment.until=5", "engine.zero_stage=2", "validation.every=4")
    run(folder, "one", *fields)
    two = ("processes=2", "engine.zero_stage=3")
    run(folder, "more", *fields, fault="step.data@rank=0,step=7:kill")
    run(folder, "more", *fields, *two)
    assert losses(folder / "more") == pytest.approx(losses(folder / "one"), rel=2e-4)
    found = rows(folder / "one")
    assert [row["alignment"] is None for row in found] == [False] * 5 + [True] * 3
    assert ["objective_grad_norm" in row for row in found] == [True] * 5 + [False] * 3
    validated = read_rows(folder / "one" / "validation.jsonl")
    assert "alignment" not in validated[0]["raw"]


def test_a_dry_run_says_what_is_aligned_and_impossible_ones_are_refused(folder: Path) -> None:
    output = run(folder, "planned", *ALIGNED, "--dry-run")
    assert "alignment: block 1 of 2 with Dinov2Model, weight 2; projector mlp of 464 parameters" in output
    assert "features of at most 128 B a sample" in output
    assert "objective's own parameters" in output
    for fields, message in (
        (("objective.alignment.weight=1",), "data.features=none: expected cached or online"),
        ((*ALIGNED, "objective.alignment.block=3"), "objective.alignment.block=3: expected at most 2"),
        (("data.features=online",), "data.pictures.encoder='': expected a folder with data.features=online"),
    ):
        assert message in run(folder, "refused", *fields, fails=True)


@pytest.mark.full
@pytest.mark.parametrize("kind", ["denoising", "mean_flow", "consistency"])
def test_features_made_online_train_as_cached_ones_do(folder: Path, kind: str) -> None:
    run(folder, f"{kind}-cached", *ALIGNED, *of_kind(kind))
    online = (
        *("data.encode=online", f"data.online.buckets.shapes={[list(shape) for shape in SHAPES]}"),
        *(
            "data.online.flip=true",
            "data.online.quarantine_budget=1",
            f"autoencoder={folder / 'autoencoder'}",
        ),
        *("data.features=online", f"data.pictures.encoder={folder / 'dino'}", "data.pictures.patch=8"),
    )
    words = command(folder / "raw", folder / f"{kind}-online", *FIELDS, *online, *ALIGNED[1:], *of_kind(kind))
    status, output = finish(words)
    assert status == 0, output
    assert losses(folder / f"{kind}-online", "alignment") == pytest.approx(
        losses(folder / f"{kind}-cached", "alignment"), abs=0.02
    )


@pytest.mark.full
def test_pictures_read_by_their_ids_are_aligned_as_cached_features_are(folder: Path) -> None:
    encoder = ("data.features=online", f"data.pictures.encoder={folder / 'dino'}", "data.pictures.patch=8")
    fields = (*encoder, *ALIGNED[1:], "trainer.steps=3", "trainer.save_every=3")
    run(folder, "by-id", *fields)
    run(folder, "stored", *ALIGNED, "trainer.steps=3", "trainer.save_every=3")
    found, expected = (losses(folder / name, "alignment") for name in ("by-id", "stored"))
    assert found == pytest.approx(expected, abs=2e-4)
    other = make_raw(folder / "elsewhere", images=13, clips=6)
    refused = run(folder, "refused", *fields, f"data.pictures.source={other.folder}", fails=True)
    assert f"data.pictures.source={other.folder}: expected the raw dataset" in refused
    missing = run(folder, "refused", *fields, f"data.pictures.source={folder / 'nowhere'}", fails=True)
    assert f"data.pictures.source={folder / 'nowhere'}: expected" in missing
