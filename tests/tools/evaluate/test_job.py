"""Scores of samples whose quality is known: real ones, noise, one class, frozen and shuffled clips."""

from __future__ import annotations

import dataclasses
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch import Tensor

from core.errors import UserError, WorkError
from core.files import fingerprint, sealed, sha256_file, write_json
from data.dataset.index import Dataset
from models.autoencoder import kl, store
from tools import digits
from tools.evaluate import job as evaluate
from tools.evaluate.classified import summing_up
from tools.evaluate.classifier import train_classifier
from tools.evaluate.measuring.measuring import table
from tools.evaluate.real_samples import Shape, chosen_rows, read_rows
from tools.runs.samples import find_samples
from tools.shard import job as shard

Pixels = np.ndarray


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make shards of 400 digits and 100 clips, and of the held-out ones among them."""
    pytest.importorskip("sklearn")
    folder = tmp_path_factory.mktemp("data")
    digits.run(digits.Config(output=str(folder / "input"), digits=400, clips=100, frames=9))
    for part, name in (("train", "real"), ("heldout", "heldout")):
        shard.run(shard.Config(source=str(folder / "input" / part), output=str(folder / name)))
    return folder


def config(data: Path, source: Path, **fields: Any) -> evaluate.Config:
    more = {"heldout": str(data / "heldout"), "steps": 90, "count": 50, "draws": 2, **fields}
    more.setdefault("real", str(data / "real"))
    return evaluate.Config(source=str(source), output=str(source / "scores"), **more)


def write_samples(folder: Path, pixels: Pixels, labels: Pixels) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    np.savez(folder / "samples.npz", arr_0=pixels, labels=labels)
    frames = pixels.shape[1] if pixels.ndim == 5 else 1
    size = {"count": len(pixels), "frames": frames, "height": pixels.shape[-3], "width": pixels.shape[-2]}
    write_json(folder / "samples.json", {**size, "classes": list("0123456789")})
    return folder


@dataclasses.dataclass(frozen=True)
class RealSamples:
    """All images and clips of a dataset, with their labels."""

    images: Pixels
    image_labels: Pixels
    clips: Pixels
    clip_labels: Pixels

    @classmethod
    def of(cls, place: Path) -> RealSamples:
        dataset, found = Dataset(place), list[Pixels]()
        for shape in (Shape(1, 32, 32), Shape(9, 32, 32)):
            rows = chosen_rows(dataset, shape, 10_000, 0)
            read = [each for each in read_rows(dataset, rows, shape, fps=0.0, stride=1) if each is not None]
            pixels = np.stack([pixels for pixels, _ in read])
            found += [pixels if shape.is_clip else pixels[:, 0], np.array([label for _, label in read])]
        return cls(*found)


@pytest.fixture(scope="module")
def real(data: Path) -> RealSamples:
    return RealSamples.of(data / "real")


@pytest.fixture(scope="module")
def trained() -> dict[str, Any]:
    """Hold the judges that were trained, by what they were trained on."""
    return {}


@pytest.fixture
def judges(trained: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """Train a judge once for all tests of its samples; test_classifier.py has that it repeats itself."""

    def train(frames: Tensor, labels: Pixels, *settings: Any) -> Any:
        key = fingerprint([sha256(frames.numpy().tobytes()).hexdigest(), labels.tolist(), repr(settings)])
        if key not in trained:
            trained[key] = train_classifier(frames, labels, *settings)
        return trained[key]

    monkeypatch.setattr("tools.evaluate.judge.train_classifier", train)


@pytest.mark.usefixtures("judges")
def test_real_samples_score_as_real_ones_do(data: Path, real: RealSamples, tmp_path: Path) -> None:
    write_samples(tmp_path / "images", real.images[:150], real.image_labels[:150])
    write_samples(tmp_path / "clips", real.clips[:40], real.clip_labels[:40])
    small = kl.KLConfig(width=8, channel_multipliers=(1, 1, 1), blocks=1)
    store.save(kl.Autoencoder(small), tmp_path / "autoencoder")
    evaluate.run(config(data, tmp_path, autoencoder=str(tmp_path / "autoencoder")))
    scores = json.loads((tmp_path / "scores/scores.json").read_text())
    assert scores["class_agreement"] > 0.95
    assert scores["reference_accuracy"] > 0.9
    assert scores["clip_agreement"] > 0.9
    assert scores["clip_reference_accuracy"] > 0.6
    assert scores["frechet"] < 3 * scores["frechet_real"]
    assert scores["precision"] > 0.8
    assert scores["recall"] > 0.5
    assert scores["nearest"] == pytest.approx(0, abs=1e-4)  # they are the training images
    assert scores["nearest_real"] > 1
    assert scores["copies"] == 1
    assert scores["copies_real"] < 0.5
    assert scores["frechet_heldout"] < 0.5 * scores["frechet_noise"]  # noise, decoded by that autoencoder
    assert scores["motion_ratio"] == pytest.approx(1, abs=0.2)
    assert scores["jerk_ratio"] == pytest.approx(1, abs=0.1)
    for name in ("class_agreement", "clip_agreement", "motion_ratio", "jerk_ratio"):
        assert 0 <= scores[f"{name}_interval"] < 0.15
    assert scores["motion_ratio_interval"] > 0
    assert "precision_interval" not in scores  # of 150 images: too few
    assert 0 < scores["psnr_db"] < 25  # an autoencoder that has learned nothing
    assert (scores["images"], scores["clips"], scores["frechet_count"]) == (150, 40, 50)
    assert scores["warning"].startswith("fewer than 65 images: the covariance is singular")
    assert summing_up.warnings_of({**scores, "frechet_count": 65}) == {}
    assert (tmp_path / "scores/real_images.png").exists()


@pytest.mark.usefixtures("judges")
def test_bad_samples_score_badly(data: Path, real: RealSamples, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    noise = random.integers(0, 256, (100, 32, 32, 3), np.uint8)
    write_samples(tmp_path / "images", noise, real.image_labels[:100])
    shuffled = real.clips[:20][:, [4, 0, 8, 2, 6, 1, 5, 3, 7]]
    write_samples(tmp_path / "clips", shuffled, (real.clip_labels[:20] + 1) % 10)
    evaluate.run(config(data, tmp_path))
    scores = json.loads((tmp_path / "scores/scores.json").read_text())
    assert scores["class_agreement"] < 0.4
    assert scores["frechet"] > 10 * scores["frechet_real"]
    assert scores["precision"] < 0.1
    assert scores["recall"] < 0.1
    assert scores["clip_agreement"] < 0.2  # they show what they showed before, under other labels
    assert scores["motion_ratio"] > 1.3
    assert scores["jerk_ratio"] > 1.5
    assert "psnr_db" not in scores


@pytest.mark.usefixtures("judges")
def test_collapse_and_standstill_are_seen(data: Path, real: RealSamples, tmp_path: Path) -> None:
    ones = real.images[real.image_labels == 1][:1].repeat(100, axis=0)
    write_samples(tmp_path / "images", ones, np.ones(100))
    write_samples(tmp_path / "clips", real.clips[:20, :1].repeat(9, axis=1), real.clip_labels[:20])
    evaluate.run(config(data, tmp_path))
    scores = json.loads((tmp_path / "scores/scores.json").read_text())
    assert scores["class_agreement"] == 1
    assert scores["recall"] < 0.1 * scores["recall_real"]
    assert scores["motion_ratio"] == 0
    assert scores["jerk_ratio"] is None  # what does not move has no smoothness
    assert "jerk_ratio_interval" not in scores


def test_scores_repeat_and_stay(
    data: Path, real: RealSamples, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_samples(tmp_path / "images", real.images[:60], real.image_labels[:60])
    chosen = config(data, tmp_path, steps=20, heldout="")
    evaluate.run(chosen)
    assert "class_agreement" in capsys.readouterr().out
    first = (tmp_path / "scores/scores.json").read_bytes()
    assert b"clip_agreement" not in first
    evaluate.run(chosen)
    assert capsys.readouterr().out == ""
    evaluate.run(dataclasses.replace(chosen, overwrite=True))
    assert (tmp_path / "scores/scores.json").read_bytes() == first


def test_without_classes_there_is_no_agreement_but_all_else(
    data: Path, real: RealSamples, tmp_path: Path
) -> None:
    shard.run(shard.Config(source=str(data / "input/train"), output=str(tmp_path / "real"), classes=False))
    write_samples(tmp_path / "images", real.images[:60], np.full(60, -1))
    evaluate.run(
        dataclasses.replace(config(data, tmp_path / "images", heldout=""), real=str(tmp_path / "real"))
    )
    scores = json.loads((tmp_path / "images/scores/scores.json").read_text())
    assert scores["class_agreement"] is None
    assert scores["precision"] > 0.5
    assert scores["frechet"] < 3 * scores["frechet_real"]


def test_two_folders_of_images_and_damaged_manifests_are_refused(data: Path, tmp_path: Path) -> None:
    for name in "ab":
        write_samples(tmp_path / name, np.zeros((2, 32, 32, 3), np.uint8), np.zeros(2))
    with pytest.raises(UserError, match="at most one folder of images"):
        evaluate.run(config(data, tmp_path))
    (tmp_path / "a/samples.json").write_text("{}")
    with pytest.raises(WorkError, match=r"samples\.json: \"count\" is missing"):
        evaluate.plan(config(data, tmp_path))


def claim_samples(folder: Path, **fields: Any) -> Path:
    """Let the manifest say what `sample` writes of where samples come from."""
    record = json.loads((folder / "samples.json").read_text())
    said = {"run": "runs/a", "checkpoint": "step-00000007.0", "weights": "ema", "weights_sha256": "a" * 64}
    digest = sha256_file(folder / "samples.npz")
    write_json(folder / "samples.json", {**record, **said, "samples_sha256": digest, **fields})
    return folder


def test_arrays_that_are_not_those_of_the_manifest_are_refused(data: Path, tmp_path: Path) -> None:
    ours = claim_samples(write_samples(tmp_path / "a", np.zeros((4, 32, 32, 3), np.uint8), np.zeros(4)))
    theirs = write_samples(tmp_path / "b", np.ones((4, 32, 32, 3), np.uint8), np.zeros(4))
    before = (ours / "samples.npz").read_bytes()
    (ours / "samples.npz").write_bytes((theirs / "samples.npz").read_bytes())
    with pytest.raises(WorkError, match=r"samples\.npz is not the file that samples\.json tells of"):
        evaluate.run(config(data, ours))
    (ours / "samples.npz").unlink()
    with pytest.raises(WorkError, match=r"samples\.npz is missing"):
        evaluate.run(config(data, ours))
    (ours / "samples.npz").write_bytes(before)
    claim_samples(ours, made_from="b" * 64)
    record = {
        "format": 1,
        "checkpoint": "c",
        "weights": "ema",
        "manifest_sha256": "",
        "network": {},
        "sampler": {},
    }
    write_json(ours / "made_from.json", sealed(record))
    with pytest.raises(WorkError, match="are of different samples"):
        evaluate.run(config(data, ours))
    assert not (ours / "scores").exists()


def test_arrays_of_another_shape_or_none_are_an_error_in_a_line(data: Path, tmp_path: Path) -> None:
    folder = write_samples(tmp_path / "a", np.zeros((4, 32, 32, 3), np.uint8), np.zeros(4))
    (samples,) = find_samples(folder)
    for content, expected in (
        ({"arr_0": np.zeros((3, 32, 32, 3), np.uint8), "labels": np.zeros(3)}, "tells of uint8"),
        ({"arr_0": np.zeros((4, 32, 32, 3)), "labels": np.zeros(4)}, "at most 12288 are expected"),
        ({"arr_0": np.zeros((4, 32, 32, 3), np.uint8)}, "is damaged"),
    ):
        np.savez(folder / "samples.npz", **content)
        with pytest.raises(WorkError, match=expected):
            samples.load()
    (folder / "samples.npz").write_bytes(b"PK")
    with pytest.raises(WorkError, match="is damaged"):
        samples.load()


def test_samples_of_two_runs_are_refused(data: Path, tmp_path: Path) -> None:
    claim_samples(write_samples(tmp_path / "images", np.zeros((4, 32, 32, 3), np.uint8), np.zeros(4)))
    clips = write_samples(tmp_path / "clips", np.zeros((2, 9, 32, 32, 3), np.uint8), np.zeros(2))
    claim_samples(clips, run="runs/b", weights_sha256="b" * 64)
    expected = r"samples of one run and checkpoint, not .*in runs/b \(weights_sha256 bbbb.*in runs/a"
    for job in (evaluate.plan, evaluate.run):
        with pytest.raises(UserError, match=expected):
            job(config(data, tmp_path))


def test_scores_say_what_they_are_of_and_are_not_taken_for_those_of_other_samples(
    data: Path, real: RealSamples, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = claim_samples(write_samples(tmp_path / "images", real.images[:60], real.image_labels[:60]))
    chosen = config(data, folder, steps=5)
    evaluate.run(chosen)
    assert "60 samples, from the ema weights of step-00000007.0 in runs/a" in capsys.readouterr().err
    of = json.loads((folder / "scores/scores.json").read_text())["of"]
    assert of["samples"]["."]["weights_sha256"] == "a" * 64
    assert of["samples"]["."]["samples_sha256"] == sha256_file(folder / "samples.npz")
    evaluate.run(chosen)
    assert "finished before" in capsys.readouterr().err
    claim_samples(write_samples(folder, real.images[60:120], real.image_labels[60:120]))
    with pytest.raises(UserError, match=r"samples_sha256=.*; now it is .*overwrite=true would remove"):
        evaluate.run(chosen)
    write_json(folder / "scores/scores.json", {"frechet": 1.0})  # of an earlier version
    evaluate.run(chosen)


def test_table_puts_real_beside_generated() -> None:
    scores = {
        "class_agreement": 0.9,
        "reference_accuracy": 0.99,
        "recall": 0.5,
        "recall_real": None,
        "images": 3,
    }
    assert table(scores).splitlines()[1:] == [
        f"{'class_agreement':18}{'0.9000':>12}{'0.9900':>12}",
        f"{'recall':18}{'0.5000':>12}",
        f"{'images':18}{'3':>12}",
    ]
    longer = table({"class_agreement": 0.9, "class_agreement_interval": 0.01}).splitlines()[1:]
    assert longer == [
        f"{'class_agreement':26}{'0.9000':>12}",
        f"{'class_agreement_interval':26}{'0.0100':>12}",
    ]


@pytest.mark.parametrize("field", ["real", "heldout", "autoencoder"])
def test_missing_data_are_told_of_before_any_work(data: Path, tmp_path: Path, field: str) -> None:
    samples = write_samples(tmp_path / "samples", np.zeros((1, 32, 32, 3), np.uint8), np.zeros(1))
    with pytest.raises(UserError, match=rf"^{field}=.*/nowhere: expected .*; nothing is there$"):
        evaluate.plan(config(data, samples, **{field: str(tmp_path / "nowhere")}))


def test_a_refused_dataset_leaves_old_scores_alone(data: Path, tmp_path: Path) -> None:
    samples = write_samples(tmp_path / "samples", np.zeros((20, 32, 32, 3), np.uint8), np.arange(20) % 10)
    wrong = config(data, samples, real=str(tmp_path), overwrite=True)
    Path(wrong.output).mkdir()
    (Path(wrong.output) / evaluate.SCORES).write_text("{}")
    with pytest.raises(UserError):
        evaluate.run(wrong)
    assert (Path(wrong.output) / evaluate.SCORES).read_text() == "{}"
