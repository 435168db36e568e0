"""The autoencoder's job: what it learns, scores and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from core.batch import Batch
from core.checkpoint.weights import load_weights
from core.config.loading import load
from core.distributed.ranks import World
from core.draws import Draws
from core.errors import UserError
from data.dataset.index import Dataset
from data.raw.decoding import in_part
from models.autoencoder.kl import Autoencoder, KLConfig
from tests.data.raw_datasets import damage, make_raw
from tools.train_autoencoder import reconstruct
from tools.train_autoencoder.config import Config, ReconstructionConfig
from tools.train_autoencoder.job import make_loader, plan, run
from tools.train_autoencoder.reconstruction_loss import ReconstructionObjective

FIELDS = (
    "model.width=8",
    "model.channel_multipliers=[1,1,1]",
    "model.spatial_compression=4",
    "model.blocks=1",
    "data.buckets.shapes=[[1,16,16],[5,16,16]]",
    "data.group_size=8",
    "data.held_out=0.4",
)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return make_raw(tmp_path_factory.mktemp("raw"))


def config(dataset: Dataset, *fields: str) -> Config:
    common = (f"source={dataset.folder}", f"output={dataset.folder.parent / 'run'}", *FIELDS)
    return load(Config, overrides=[*common, *fields])


def test_the_plan_tells_latents_parameters_and_what_is_held_out(raw: Dataset) -> None:
    text = "\n".join(plan(config(raw)))
    network = Autoencoder(config(raw).model)
    assert "14 samples" in text
    assert "40% of them held out" in text
    assert "4 channels, 1x16x16 -> 1x4x4, 5x16x16 -> 2x4x4" in text
    assert f"model: {sum(p.numel() for p in network.parameters()):,} parameters" in text


def test_it_begins_from_the_weights_of_another_run_or_of_a_folder(
    raw: Dataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    common = ("ema.decay=0.5", "engine.device=cpu", "engine.precision=fp32", "score_samples=1")
    first = tmp_path / "first"
    run(config(raw, f"output={first}", "trainer.steps=2", "optimizer.lr=0.01", *common))
    taken = load_weights(first, "ema")
    for place, output in ((first, "second"), (first / "autoencoder", "third")):
        still = ("trainer.steps=1", "optimizer.lr=0", "seed=5", f"initial={place}")
        run(config(raw, f"output={tmp_path / output}", *still, *common))
        found = load_weights(tmp_path / output, "raw")
        assert all(torch.equal(found[name], tensor) for name, tensor in taken.items())
        assert json.loads((tmp_path / output / "initial.json").read_text())["taken"] == len(taken)
    said = capfd.readouterr().err
    assert f"initial: begins from the average 0.5 of step 2 in {first}/checkpoints/" in said
    assert "optimizer.lr=0.0 (0.01 there)" in said
    with pytest.raises(UserError, match=r"^model\.blocks=2: expected 1, with which .* was trained"):
        plan(config(raw, f"output={tmp_path / 'run'}", f"initial={first}", "model.blocks=2"))
    with pytest.raises(UserError, match=r"^initial=.*: expected no @0.5: an autoencoder's folder has one"):
        plan(config(raw, f"output={tmp_path / 'run'}", f"initial={first}/autoencoder@0.5"))


def test_the_loss_is_squared_error_and_divergence_of_the_drawn_posterior() -> None:
    torch.manual_seed(0)
    shape = KLConfig(width=8, channel_multipliers=(1, 1, 1), spatial_compression=4, blocks=1)
    model = Autoencoder(shape)
    pixels = torch.rand(3, 3, 5, 8, 8) * 2 - 1
    ids = torch.tensor([4, 9, 2])
    batch = Batch(x=pixels, id=ids, position=torch.arange(3), weight=torch.ones(3))
    draws = Draws(7, 11, ids, torch.arange(3))
    weights = ReconstructionConfig(squared=2.0, absolute=0.5, kl=0.1)
    losses = ReconstructionObjective(weights, shape).loss(model, batch, draws)

    mean, log_variance = model.encode(pixels).unbind(1)
    normal = torch.distributions.Normal(mean, (0.5 * log_variance).exp())
    latents = mean + normal.scale * draws.normal("posterior", (4, 2, 2, 2))
    error = model.decode(latents) - pixels
    divergence = (
        torch.distributions.kl_divergence(normal, torch.distributions.Normal(0.0, 1.0)).flatten(1).mean(1)
    )
    want = 2 * error.square().flatten(1).mean(1) + 0.5 * error.abs().flatten(1).mean(1) + 0.1 * divergence
    torch.testing.assert_close(losses.loss, want)
    torch.testing.assert_close(losses.extras["divergence"], divergence)


def test_only_held_out_samples_are_scored_and_none_of_them_is_trained_on(
    raw: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = config(raw)
    held_out = set(np.flatnonzero(in_part(np.asarray(raw.index["id"]), "held_out", 0.4)).tolist())
    scored: list[int] = []
    plain = reconstruct.read_pixels
    monkeypatch.setattr(
        reconstruct, "read_pixels", lambda data, row, *rest: scored.append(row) or plain(data, row, *rest)
    )
    torch.manual_seed(0)
    pairs = reconstruct.reconstruct(Autoencoder(settings.model), raw, settings.data, 99)
    assert set(scored) == held_out
    assert {pair.bucket.frames for pair in pairs} <= {1, 5}
    world = World(0, 1, 0, torch.device("cpu"))
    loader = make_loader(raw, settings.data, settings.model, world, settings.seed)
    trained = {int(i) for step in range(8) for batch in loader.load(step) for i in batch.id}
    assert trained.isdisjoint(held_out)
    assert trained | held_out == set(range(len(raw)))


def test_scores_are_those_of_the_pairs_and_a_damaged_sample_is_passed_over(tmp_path: Path) -> None:
    dataset = make_raw(tmp_path)
    settings = config(dataset, "data.held_out=1.0")
    torch.manual_seed(0)
    network = Autoencoder(settings.model)
    whole = reconstruct.reconstruct(network, dataset, settings.data, 99)
    result = reconstruct.scores(whole)
    images = next(pair for pair in whole if pair.bucket.frames == 1)
    error = (images.originals.astype(float) - images.copies) ** 2
    assert result["psnr_db"] == pytest.approx(np.mean(10 * np.log10(255**2 / error.mean((1, 2, 3, 4)))))
    assert (result["images"], result["clips"]) == (10, 4)
    damage(dataset, int(np.flatnonzero(dataset.media["frames"] == 1)[0]))
    again = reconstruct.scores(reconstruct.reconstruct(network, dataset, settings.data, 99))
    assert (again["images"], again["clips"]) == (9, 4)


def test_without_held_out_samples_there_is_no_score(raw: Dataset) -> None:
    settings = config(raw, "data.held_out=0")
    assert reconstruct.reconstruct(Autoencoder(settings.model), raw, settings.data, 9) == []
    assert reconstruct.scores([]) == {}


def test_at_most_the_asked_number_is_scored(raw: Dataset) -> None:
    settings = config(raw, "data.held_out=1.0")
    pairs = reconstruct.reconstruct(Autoencoder(settings.model), raw, settings.data, 3)
    assert [len(pair.originals) for pair in pairs] == [3, 3]


@pytest.mark.parametrize(
    ("field", "message"),
    [
        ("data.part=all", "data.part=all: expected train"),
        ("objective.squared=0", "objective.squared=0: expected more than 0"),
        ("data.buckets.shapes=[[1,16,18]]", "1x16x18 does not suit the autoencoder: width=18"),
        ("data.buckets.shapes=[[4,16,16]]", "4x16x16 does not suit the autoencoder: frames=4"),
        ("data.held_out=1", "no sample that fits a bucket"),
    ],
)
def test_what_cannot_work_is_refused(raw: Dataset, field: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        plan(config(raw, field))
