"""Samples guided by a classifier of noisy latents: trained for a run, named in the job, recorded."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from core.diffusion.guidance.config import GuideConfig
from core.diffusion.sampling import SamplerConfig
from core.errors import UserError, WorkError
from data.latent.packs import Shape
from models.classifiers import classifier_folder
from models.classifiers.fitting import FittingConfig
from models.classifiers.pooled import PooledConfig
from tests.data.caches import make_cache
from tests.tools.made_runs import make_run
from tools.runs.loaded_run import LatentSpace
from tools.runs.rulers import of_samples
from tools.runs.samples import Samples
from tools.sample import job as sample
from tools.sample.config import FilesConfig
from tools.sample.noisy_classifiers.classifier_training import train
from tools.sample.noisy_classifiers.opening import latents_of

PLAIN = SamplerConfig(steps=3)
GUIDED = replace(PLAIN, guide=GuideConfig(classifier=5.0))
CONFIG = PooledConfig(channels=4, classes=3, width=8, depth=1)


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    return make_run(tmp_path / "run", monkeypatch)


def classifier(run: Path, seed: int = 0, **latents: Any) -> str:
    torch.manual_seed(seed)
    space, folder = LatentSpace.read(run), run.parent / "classifier"
    made_for = {**latents_of(space), **latents}
    classes = made_for.pop("classes", space.classes)
    classifier_folder.save(folder, CONFIG.build(), CONFIG, classes, made_for)
    return str(folder)


def config(run: Path, name: str, **fields: Any) -> sample.Config:
    usual = {"count": 3, "sampler": GUIDED, "device": "cpu", "files": FilesConfig(kind="png")}
    return sample.Config(source=str(run), output=str(run.parent / name), **{**usual, **fields})


def made(run: Path, name: str, **fields: Any) -> list[str]:
    sample.run(config(run, name, **fields))
    return [row["sha256"] for row in rows(run.parent / name)]


def rows(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]


def test_a_classifier_moves_samples_and_is_the_identity_at_0(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, plain = classifier(run), made(run, "plain", sampler=PLAIN)
    guided = made(run, "guided", classifier=folder)
    assert len(set(guided) | set(plain)) == 6
    assert made(run, "zero", classifier=folder, sampler=PLAIN) == plain
    assert "has no effect with sampler.guide.classifier=0" in capsys.readouterr().err
    lines = sample.plan(config(run, "guided", classifier=folder))
    assert any("classifier guidance 5" in line for line in lines)


def test_what_guided_is_recorded_and_makes_a_sample_again(run: Path) -> None:
    folder, output = classifier(run), run.parent / "guided"
    guided = made(run, "guided", classifier=folder)
    sha256 = classifier_folder.read(Path(folder)).weights_sha256
    assert {row["classifier"] for row in rows(output)} == {sha256}
    record = Samples.read(output)
    assert record.record["classifier"]["weights_sha256"] == sha256
    assert of_samples([record], {})["subject"]["classifier"]["network"]["kind"] == "pooled"
    found = f"{output / 'samples.jsonl'}[1]"
    implied = sample.Config.implied({"again": found})
    assert (implied["classifier"], implied["sampler"]["guide"]["classifier"]) == (folder, 5.0)
    assert made(run, "again", classifier=folder, requests=found, count=100) == guided[1:2]
    assert made(run, "guided", classifier=folder) == guided  # is finished, and still the same
    classifier(run, seed=1)
    with pytest.raises(UserError, match="classifier"):
        made(run, "guided", classifier=folder)


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        ({"classes": ("cat", "dog", "elk")}, r"with classes=\['cat', 'dog', 'eel'\]; this one has .*elk"),
        ({"encoder": "other"}, r"with encoder=\w+; this one has other"),
        ({"path": "edm"}, "with path=rectified_flow; this one has edm"),
        ({"std": [1.0, 1.0, 1.0, 1.0]}, r"with std=\[1\.0, 2\.0"),
    ],
)
def test_a_classifier_for_another_run_is_refused(run: Path, latents: dict[str, Any], message: str) -> None:
    folder = classifier(run, **latents)
    for do in (sample.plan, sample.run):
        with pytest.raises(UserError, match=rf"^classifier=.*: expected a classifier for the run, {message}"):
            do(config(run, "out", classifier=folder))
    assert not (run.parent / "out").exists()


def test_a_scale_needs_a_classifier_and_classes(run: Path) -> None:
    with pytest.raises(UserError, match=r"^classifier='': expected a folder with sampler\.guide\.classifier"):
        config(run, "out")
    with pytest.raises(UserError, match=r"^classifier=.*: expected the folder of a classifier"):
        sample.plan(config(run, "out", classifier=str(run)))


def test_a_classifier_whose_gradient_is_not_finite_is_named(run: Path) -> None:
    folder = Path(classifier(run))
    network, saved = classifier_folder.load(folder)
    network.first.weight *= 1e30
    classifier_folder.save(folder, network, CONFIG, saved.classes, saved.latents)
    with pytest.raises(
        WorkError, match=r"sample 0: what the network, guided by the classifier, estimates is"
    ):
        made(run, "out", classifier=str(folder))


def test_a_classifier_is_trained_on_a_cache_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = tuple(f"class {number}" for number in range(10))
    run = make_run(tmp_path / "run", monkeypatch, classes=names)
    space, cache, output = LatentSpace.read(run), tmp_path / "cache", tmp_path / "fitted"
    fitting = FittingConfig(steps=3, batch=4)
    shards: list[list[Shape]] = [[(1, 4, 1, 2, 2)] * 5, [(1, 4, 3, 2, 2)] * 4]
    made_cache = make_cache(cache, shards, absent=[2], encoder=space.encoder)
    with pytest.raises(UserError, match=r"^cache=.*: expected the classes of the run"):
        train(run=run, cache=cache, output=output, fitting=fitting)
    replace(made_cache.manifest, classes=names).write(cache)
    saved = train(run=run, cache=cache, output=output, width=8, depth=1, fitting=fitting)
    assert saved == classifier_folder.read(output)
    few = {"classes": names[:3]}
    assert made(run, "guided", classifier=str(output), **few) != made(run, "plain", sampler=PLAIN, **few)
    make_cache(tmp_path / "other", shards)
    with pytest.raises(UserError, match=r"^cache=.*: expected latents of the run's autoencoder"):
        train(run=run, cache=tmp_path / "other", output=output)
