"""Jobs go on where data, autoencoders and outputs have moved, if the content is the same.

Where it is another, the refusal says what overwriting would remove.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core.config.loading import load
from core.config.yaml_files import read_yaml
from core.distributed.ranks import World
from core.errors import UserError, WorkError
from core.faults import failpoints
from core.run.folder import CONFIG
from data.dataset.index import Dataset
from data.dataset.manifest import DatasetManifest
from tests.data.caches import CLIP, IMAGE
from tests.data.raw_datasets import make_raw
from tests.data.samples import image_folder
from tests.integration import tiny_run
from tests.tools.encode import encode_runs
from tests.tools.train import opened
from tools.encode import job as encode
from tools.runs.continuing import latent_contents, raw_contents
from tools.shard import job as shard
from tools.train import job as train
from tools.train.config import Config

WORLD = World(0, 1, 0, torch.device("cpu"))


@pytest.fixture(autouse=True)
def _disarm() -> Iterator[None]:
    yield
    failpoints.arm("")


def stop_at(failpoint: str, work: Callable[[], None]) -> None:
    failpoints.arm(failpoint)
    with pytest.raises(WorkError, match="failpoint"):
        work()
    failpoints.arm("")


def moved(folder: Path, name: str) -> Path:
    return folder.rename(folder.with_name(name))


def train_config(source: Path, output: Path, *fields: str) -> Config:
    words = (f"source={source}", f"output={output}", *tiny_run.MODEL, *tiny_run.STEP, "model.attention=math")
    return load(Config, overrides=[*words, *fields])


def test_training_goes_on_from_where_its_cache_is_now(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_run.make_autoencoder(tmp_path / "autoencoder")
    cache = tiny_run.make_latents(tmp_path / "cache", tmp_path / "autoencoder")
    train.run(train_config(cache, tmp_path / "whole", "trainer.steps=4"))
    train.run(train_config(cache, tmp_path / "run", "trainer.steps=2"))
    cache, run = moved(cache, "cache2"), moved(tmp_path / "run", "run2")
    watched = ("validation.every=2", "validation.samples=32", "ema.snapshot_every=7", "data.online.threads=3")
    train.run(train_config(cache, run, "trainer.steps=4", *watched, f"validation_source={cache}"))
    assert tiny_run.rows(run) == tiny_run.rows(tmp_path / "whole")
    recorded = read_yaml(run / CONFIG)
    assert (recorded["source"], recorded["output"]) == (str(cache), str(run))
    assert f"{run}: source is {cache} now, and was {tmp_path / 'cache'}" in capsys.readouterr().err

    contents = raw_contents(run, Dataset(cache))
    assert contents("source")[0] == contents("source")[1]
    assert raw_contents(tmp_path / "nothing", Dataset(cache))("source")[0] is None
    made = DatasetManifest.read(cache)
    other = Path(shutil.copytree(cache, tmp_path / "other"))
    replace(made, fingerprint="0123456789abcdef").write(other)
    with pytest.raises(UserError) as refused:
        train.run(train_config(other, run, "trainer.steps=4"))
    assert str(refused.value).startswith(
        f"source={other}: expected what {run} was made from, with cache=[{made.fingerprint[:12]}]; "
        f"this has [0123456789ab]; go on with the old value, or take output=NEW initial={run}, a new run "
        "that starts from its weights; overwrite=true would remove 4 steps of training, "
    )


def test_the_caches_of_a_mixture_may_move(tmp_path: Path) -> None:
    tiny_run.make_autoencoder(tmp_path / "autoencoder")
    images, clips = (
        tiny_run.make_latents(tmp_path / name, tmp_path / "autoencoder", [[kind] * 20])
        for name, kind in (("images", IMAGE), ("clips", CLIP))
    )
    run = tmp_path / "run"
    begun = train_config(images, run, f"data.also=[{clips}]")
    opened.prepare_objective(begun, *opened.open_checked(begun), WORLD)
    continued = train_config(images, run, f"data.also=[{moved(clips, 'a')}]")
    source, autoencoder = opened.open_checked(continued)
    recorded, found = latent_contents(run, source.facts)("data.also")
    assert recorded == found
    opened.prepare_objective(continued, source, autoencoder, WORLD)
    replace(DatasetManifest.read(tmp_path / "a"), fingerprint="remade").write(tmp_path / "a")
    source, _ = opened.open_checked(continued)
    recorded, found = latent_contents(run, source.facts)("data.also")
    assert recorded != found
    with pytest.raises(UserError, match="was begun with cache"):
        opened.prepare_objective(continued, source, autoencoder, WORLD)


def test_encoding_goes_on_from_where_source_and_autoencoder_are_now(tmp_path: Path) -> None:
    raw, encoder = make_raw(tmp_path / "raw"), encode_runs.make_autoencoder(tmp_path / "encoder")
    encode.run(whole := encode_runs.make_config(raw, encoder, tmp_path / "whole"))
    config = encode_runs.make_config(raw, encoder, tmp_path / "cache")
    stop_at("encode.manifest:raise", lambda: encode.run(config))
    other = encode_runs.make_autoencoder(tmp_path / "other", seed=1)
    with pytest.raises(
        UserError, match=r"autoencoder=.*: expected what .* was made from, with encoder="
    ) as one:
        encode.run(replace(config, autoencoder=other))
    assert "overwrite=true would remove 4 of 4 encoded shards, " in str(one.value)
    source = moved(raw.folder, "elsewhere")
    config = replace(config, source=str(source), autoencoder=moved(encoder, "encoder2"))
    encode.run(config)
    assert encode_runs.content(config.output) == encode_runs.content(whole.output)
    encode.run(replace(config, source=str(moved(source, "again"))))
    assert read_yaml(config.output / CONFIG)["source"] == str(source.with_name("again"))


def test_packing_goes_on_from_where_the_files_are_now(tmp_path: Path) -> None:
    source, output = image_folder(tmp_path / "in", each=5), tmp_path / "out"
    config = shard.Config(source=str(source), output=str(output), samples_per_shard=4)
    stop_at("shard.manifest:raise", lambda: shard.run(config))
    other = image_folder(tmp_path / "other", each=6)
    with pytest.raises(
        UserError, match=r"source=.*: expected what .* was made from, with listing=.*remove \d+ f"
    ):
        shard.run(replace(config, source=str(other)))
    shard.run(replace(config, source=str(moved(source, "elsewhere"))))
    assert json.loads((output / shard.MANIFEST).read_text())["kind"] == "raw"
