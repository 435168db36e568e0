"""`longtake train A data.also=[B] data.mix=[3,1]`: shares kept exactly, resumed exactly, others refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core.config.loading import load
from core.distributed.ranks import World
from core.errors import UserError, WorkError
from core.faults import failpoints
from core.records import read_rows
from core.run.claim import claim
from data.dataset.index import Dataset
from data.dataset.manifest import DatasetManifest
from data.loading.sources.mixed import MixedLatents
from tests.data.caches import CLIP, IMAGE
from tests.integration.tiny_run import MODEL, OBJECTIVE, STEP, make_autoencoder, make_latents, rows
from tests.tools.train.opened import open_checked, prepare_objective
from tools.runs.loaded_run import LatentSpace
from tools.train.config import Config
from tools.train.job import plan, run

RUN = ("trainer.steps=8", "trainer.save_every=2", "engine.zero_stage=0", "engine.precision=fp32")
WORLD = World(0, 1, 0, torch.device("cpu"))
IMAGES, CLIPS = 8 * 4, 8 * 12  # tokens of a group: 8 samples, latents of 4 x 4 in patches of 2 x 2, 3 frames


@pytest.fixture(autouse=True)
def _disarm() -> Iterator[None]:
    yield
    failpoints.arm("")


@pytest.fixture
def caches(tmp_path: Path) -> tuple[Path, Path]:
    """Make a cache of pictures and one of clips, so that a step's tokens show the source of its groups."""
    make_autoencoder(tmp_path / "autoencoder")
    images = make_latents(tmp_path / "images", tmp_path / "autoencoder", [[IMAGE] * 20])
    return images, make_latents(tmp_path / "clips", tmp_path / "autoencoder", [[CLIP] * 12])


def config(caches: tuple[Path, Path], run: str, *more: str) -> Config:
    words = (f"source={caches[0]}", f"output={caches[0].parent / run}", f"data.also=[{caches[1]}]")
    return load(Config, overrides=[*words, "data.mix=[3,1]", *MODEL, *OBJECTIVE, *STEP, *RUN, *more])


def test_a_mixed_run_keeps_the_shares_and_continues_exactly(caches: tuple[Path, Path]) -> None:
    whole, stopped = (config(caches, name) for name in ("whole", "stopped"))
    run(whole)
    tokens = [row["tokens"] for row in rows(Path(whole.output))]
    assert [tokens[k] + tokens[k + 1] for k in range(0, 8, 2)] == [3 * IMAGES + CLIPS] * 4
    failpoints.arm("step.backward@step=6:raise")
    with pytest.raises(WorkError, match="failpoint"):
        run(stopped)
    failpoints.arm("")
    run(stopped)
    assert rows(Path(stopped.output)) == rows(Path(whole.output))
    space, mixture = LatentSpace.read(Path(whole.output)), MixedLatents([Dataset(cache) for cache in caches])
    assert space.mean == tuple(mixture.statistics(None, WORLD)["mean"])
    assert space.shapes == ((3, 1, 4, 4), (3, 3, 4, 4))


def test_an_incident_names_the_cache_of_its_samples(caches: tuple[Path, Path]) -> None:
    spoiled = config(caches, "run", "trainer.steps=2")
    failpoints.arm("step.loss:nan")
    run(spoiled)
    skipped = read_rows(Path(spoiled.output) / "incidents.jsonl")
    found = {
        (s["id"] // 10**12, s["source"]) for row in skipped for c in row["culprits"] for s in c["samples"]
    }
    assert found == {(0, str(caches[0])), (1, str(caches[1]))}


def test_the_plan_has_a_line_for_each_cache(caches: tuple[Path, Path]) -> None:
    lines = plan(config(caches, "run"))
    assert lines[0] == f"data: 32 samples, 10 classes in {caches[0]}, {caches[1]}"
    assert lines[1] == f"{caches[0]}: 20 samples (62.5%), 75.0% of groups"
    assert lines[2] == f"{caches[1]}: 12 samples (37.5%), 25.0% of groups"


def test_a_run_goes_on_with_the_same_caches_and_mix_alone(caches: tuple[Path, Path]) -> None:
    begun = config(caches, "run")
    source, autoencoder = open_checked(begun)
    claim(Path(begun.output), begun, done="finished.json", overwrite=False)
    prepare_objective(begun, source, autoencoder, WORLD)
    for field in ("data.mix=[1,1]", "data.also=[]"):
        words = (field, "data.mix=[]") if "also" in field else (field,)
        with pytest.raises(UserError, match=r"data\.(mix|also)=.*: expected .*, with which .* was made"):
            claim(Path(begun.output), config(caches, "run", *words), done="finished.json", overwrite=False)
    replace(DatasetManifest.read(caches[1]), fingerprint="remade").write(caches[1])
    source, _ = open_checked(begun)
    with pytest.raises(UserError, match=rf"was begun with cache.{caches[1]}=f; in .* it is remade"):
        prepare_objective(begun, source, autoencoder, WORLD)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (["data.mix=[1]"], r"data.mix=\[1.0\]: expected 2 numbers above 0, of source and each of data.also"),
        (["data.mix=[1,0]"], r"data.mix=\[1.0, 0.0\]: expected 2 numbers above 0"),
        (["data.also=[]"], r"data.mix=\[3.0, 1.0\]: expected 1 numbers? above 0"),
        (["data.video_share=0.5"], r"data.video_share=0.5: expected null with data.mix"),
        (["data.encode=online"], r"data.also=.*: expected \[\] with data.encode=online, since only latent"),
    ],
)
def test_mixtures_that_cannot_be_are_refused(
    caches: tuple[Path, Path], fields: list[str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        config(caches, "run", *fields)


def test_caches_of_two_autoencoders_are_refused(caches: tuple[Path, Path]) -> None:
    folder = caches[0].parent
    make_autoencoder(folder / "other", seed=1)
    other = make_latents(folder / "others", folder / "other", [[IMAGE] * 20])
    with pytest.raises(
        UserError, match=rf"{caches[0]} and {other} cannot be mixed: encoder is \w+ in the first"
    ):
        open_checked(config((caches[0], other), "run"))
