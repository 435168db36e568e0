"""Training from raw shards sees what training on their cache sees: samples, latents, and so the loss."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core.config.loading import load
from core.distributed.ranks import World
from core.draws import Draws
from core.errors import UserError, WorkError
from data.dataset.quarantine import read_quarantine
from data.latent.normalising import Normaliser
from models.autoencoder.opening import identify_saved
from models.denoisers.dit import DiT
from tests.data.raw_datasets import damage, make_raw
from tests.integration.tiny_run import MODEL, OBJECTIVE, STEP, finish, rows
from tests.integration.tiny_run import command as train_command
from tests.tools.encode.encode_runs import SHAPES, make_autoencoder, make_config
from tests.tools.train.opened import load_data, open_checked, prepare_objective
from tools.encode import job as encode
from tools.runs.normalisers import LatentsConfig, choose_normaliser
from tools.train.config import Config
from tools.train.job import plan
from tools.train.objective import LatentObjective

BAD = 6
WORLD = World(0, 1, 0, torch.device("cpu"))
FIELDS = (*MODEL, "model.input_channels=4", "model.patch=[1,1,1]", *OBJECTIVE, *STEP)
ONLINE = (
    "data.encode=online",
    f"data.online.buckets.shapes={[list(shape) for shape in SHAPES]}",
    "data.online.flip=true",
    "data.online.quarantine_budget=1",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make `raw`, with one sample that cannot be decoded, `autoencoder`, and `cache`, encoded from them."""
    folder = tmp_path_factory.mktemp("online")
    raw = make_raw(folder, images=14, clips=6)
    damage(raw, BAD)
    config = make_config(raw, make_autoencoder(folder / "autoencoder"), folder / "cache")
    encode.run(replace(config, flip=True, quarantine_budget=1))
    return folder


def config(folder: Path, source: str, *fields: str) -> Config:
    words = (f"source={folder / source}", f"output={folder / 'run'}", f"autoencoder={folder / 'autoencoder'}")
    return load(Config, overrides=[*words, *FIELDS, *(ONLINE if source == "raw" else ()), *fields])


def both(folder: Path, *fields: str) -> Iterator[tuple]:
    """Yield step by step (its number, batch of the cache, batch of pixels, the source of each)."""
    configs = [config(folder, source, *fields) for source in ("cache", "raw")]
    opened = [load_data(each, open_checked(each)[0], WORLD)[0] for each in configs]
    for step in range(4):
        for cached, online in zip(*(data.loader.load(step) for data in opened), strict=True):
            yield step, cached, online, *(data.source for data in opened)


@pytest.mark.parametrize("micro_batch", [0, 3])
def test_the_same_samples_with_the_same_latents_make_up_a_step(folder: Path, micro_batch: int) -> None:
    seen = set()
    for _, cached, online, _, source in both(folder, f"engine.micro_batch={micro_batch}"):
        assert torch.equal(online.id, cached.id)
        assert torch.equal(online.position, cached.position)
        assert torch.equal(online.condition.label, cached.condition.label)
        assert torch.equal(online.weight, cached.weight)
        moments = source.moments(online.x)
        assert (moments.dtype, moments.shape) == (cached.x.dtype, cached.x.shape)
        true = cached.weight > 0
        torch.testing.assert_close(moments[true], cached.x[true], rtol=2**-10, atol=2**-14)
        seen |= set(cached.id.tolist())
    assert seen == set(range(20))
    assert [(entry.id, entry.stage) for entry in read_quarantine(folder / "run")] == [(BAD, "decode")]


def test_statistics_and_losses_agree_to_rounding(folder: Path) -> None:
    torch.manual_seed(0)
    settings = config(folder, "raw")
    model = DiT(settings.model)
    for parameter in model.parameters():  # the last layer begins at zero, and the loss were that of the noise
        torch.nn.init.normal_(parameter, std=0.1)
    checked, normalisers = 0, []
    for step, cached, online, *sources in both(folder):
        normalisers = normalisers or [Normaliser.from_dict(s.statistics(None, WORLD)) for s in sources]
        assert normalisers[1].mean == pytest.approx(normalisers[0].mean, abs=1e-3)
        assert normalisers[1].std == pytest.approx(normalisers[0].std, rel=1e-3)
        plain, of_pixels = (
            LatentObjective(settings.objective, each, frame_condition=False, moments=source.moments)
            for each, source in zip(normalisers, sources, strict=True)
        )
        draws = Draws(settings.seed, step, cached.id, cached.position)
        one = plain.loss(model, cached, draws)
        two = of_pixels.loss(model, online, draws)
        assert torch.equal(one.time, two.time)
        true = cached.weight > 0
        torch.testing.assert_close(one.loss[true], two.loss[true], rtol=5e-3, atol=0)
        two.loss[true].sum().backward()  # the encoder is out of it
        checked += int(true.sum())
    assert checked >= 32
    assert any((parameter.grad != 0).any() for parameter in model.parameters())
    assert all(p.grad is None for p in sources[1]._encoder.autoencoder.parameters())


def test_statistics_are_of_a_spread_and_a_continued_run_keeps_them(folder: Path, tmp_path: Path) -> None:
    few, _ = open_checked(config(folder, "raw", "data.online.statistics_samples=4"))
    measured = few.statistics(None, WORLD)
    every = [few._latents(row) for row in (0, 5, 10, 15)]
    assert measured["count"] == sum(latents[0, 0, 0].size for latents in every if latents is not None)
    (tmp_path / "latents.json").write_text('{"mean": [1, 2, 3, 4], "std": [5, 6, 7, 8], "classes": []}')
    kept = choose_normaliser(few, LatentsConfig(), tmp_path, WORLD)
    assert kept == Normaliser((1.0, 2.0, 3.0, 4.0), (5.0, 6.0, 7.0, 8.0))


def test_a_damaged_record_of_statistics_is_named(folder: Path, tmp_path: Path) -> None:
    source, _ = open_checked(config(folder, "raw"))
    (tmp_path / "latents.json").write_text('{"mean": [1, 2, 3, 4]')
    with pytest.raises(WorkError, match=r"latents\.json: not readable as JSON"):
        choose_normaliser(source, LatentsConfig(), tmp_path, WORLD)


def test_the_run_that_trained_the_autoencoder_may_be_named(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "autoencoder", tmp_path / "trained" / "autoencoder")
    chosen = config(folder, "raw", f"autoencoder={tmp_path / 'trained'}", f"output={tmp_path / 'run'}")
    prepare_objective(chosen, *open_checked(chosen), WORLD)
    assert identify_saved(tmp_path / "run" / "autoencoder") == identify_saved(folder / "autoencoder")


def test_what_does_not_fit_is_refused(folder: Path) -> None:
    with pytest.raises(UserError, match=r"autoencoder='': expected a folder, since data.encode=online"):
        open_checked(config(folder, "raw", "autoencoder="))
    with pytest.raises(UserError, match=r"expected a raw dataset, since data.encode=online"):
        open_checked(config(folder, "cache", "data.encode=online"))
    with pytest.raises(UserError, match=r"encode it first, or set data.encode=online"):
        open_checked(config(folder, "raw", "data.encode=cached"))
    with pytest.raises(UserError, match=r"6x16x16 does not suit the autoencoder"):
        open_checked(config(folder, "raw", "data.online.buckets.shapes=[[6,16,16]]"))


def test_the_budget_stops_a_run(folder: Path) -> None:
    with pytest.raises(WorkError, match="1 of 20 samples were set aside, more than the budget of 0"):
        for _ in both(folder, "data.online.quarantine_budget=0", f"output={folder / 'strict'}"):
            pass


def test_the_plan_of_both_is_the_same(folder: Path) -> None:
    """But for memory and hours: encoding takes some, pixels are larger than latents, and hours are timed."""
    one, two = (plan(config(folder, source)) for source in ("cache", "raw"))
    own = ("memory of a rank", "micro-batch: ", "hours: ")
    kept = [[line for line in lines[1:] if not line.startswith(own)] for lines in (one, two)]
    assert len(kept[0]) > 5
    assert kept[0] == kept[1]


@pytest.mark.full
@pytest.mark.multiprocess
def test_runs_from_either_take_the_same_steps(folder: Path, tmp_path: Path) -> None:
    fields = (*FIELDS, f"autoencoder={folder / 'autoencoder'}", "engine.precision=fp32", "trainer.steps=6")
    for source, more in (("cache", ()), ("raw", ONLINE)):
        words = train_command(folder / source, tmp_path / source, *fields, *more, "processes=2")
        status, output = finish(words)
        assert status == 0, output
    for cached, online in zip(rows(tmp_path / "cache"), rows(tmp_path / "raw"), strict=True):
        for name in ("step", "lr", "tokens", "samples"):
            assert cached[name] == online[name]
        assert online["loss"] == pytest.approx(cached["loss"], rel=1e-2)
    assert (tmp_path / "raw" / "latents.json").is_file()
    status, output = finish(train_command(folder / "raw", tmp_path / "raw", *fields, *ONLINE))
    assert status == 0, output
    assert "is finished" in output
