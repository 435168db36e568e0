"""Scores by the published network: from samples and real pictures, or published statistics, with rulers."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from core.errors import UserError
from models.extractors.vision import load_clip
from tests.models.extractors.made_weights import random_weights
from tests.models.public_models import save_clip, save_dinov2, save_i3d
from tests.tools.evaluate.test_job import write_samples
from tools.evaluate import job as evaluate
from tools.evaluate.extractors.extractor import Seen
from tools.evaluate.extractors.inception_scores import LOGITS, SPATIAL, InceptionScores
from tools.evaluate.moments import Moments
from tools.shard import job as shard


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "inception.pth"
    torch.save(random_weights(), path)
    return path


def pictures(seed: int, count: int) -> np.ndarray:
    smooth = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), np.uint8)
    return smooth.repeat(4, 1).repeat(4, 2)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_raw(tmp_path_factory.mktemp("real"), 12)


def made_raw(folder: Path, count: int) -> Path:
    (folder / "files").mkdir()
    for number, picture in enumerate(pictures(0, count)):
        Image.fromarray(picture).save(folder / f"files/{number}.png")
    shard.run(shard.Config(source=str(folder / "files"), output=str(folder / "raw")))
    return folder / "raw"


def scores(
    samples: Path, weights: Path, name: str = "scores", extractor: Any = "inception", **fields: Any
) -> dict[str, Any]:
    more = {"extractor": extractor, "extractor_weights": str(weights), "batch": 5, "device": "cpu"}
    evaluate.run(evaluate.Config(source=str(samples), output=str(samples / name), **more, **fields))
    found: dict[str, Any] = json.loads((samples / name / "scores.json").read_text())
    return found


@pytest.mark.full
def test_the_same_pictures_have_no_distance(tmp_path: Path, weights: Path, real: Path) -> None:
    write_samples(tmp_path, pictures(0, 12), np.full(12, -1))
    found = scores(tmp_path, weights, real=str(real))
    assert abs(found["fid"]) < 0.01
    assert abs(found["sfid"]) < 0.01
    assert (found["precision"], found["recall"], found["coverage"]) == (1, 1, 1)
    assert (found["images"], found["reference_count"]) == (12, 12)
    assert "fewer than 2048 images" in found["warning"]
    ruler = found["ruler"]
    assert ruler["extractor"] == "inception-2015-12-05"
    assert len(ruler["extractor_sha256"]) == len(ruler["real"]) == 64
    assert ruler["samples"]["images"] == {
        **{"count": 12, "frames": 1, "height": 16, "width": 16, "fps": None},
        **{"files": "npz", "quality": None, "labels": "equal"},
        **{"classes_sha256": None, "prompts_sha256": None},
    }
    assert set(found["subject"]) >= {"checkpoint", "weights", "sampler", "seed"}


@pytest.mark.full
def test_published_statistics_give_fid_alone(
    tmp_path: Path, weights: Path, real: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    write_samples(tmp_path, pictures(1, 6), np.full(6, -1))
    by_pictures = scores(tmp_path, weights, real=str(real))
    statistics = tmp_path / "cifar10_clean_train_32.npz"
    np.savez(statistics, mu=np.zeros(2048), sigma=np.eye(2048))
    found = scores(tmp_path, weights, "other", reference=str(statistics))
    assert by_pictures["fid"] > 1
    assert set(found) & {"kid", "precision", "sfid"} == set()
    assert found["fid"] > 0
    assert len(found["ruler"]["reference_sha256"]) == 64
    said = capfd.readouterr()
    assert "fid" in said.out
    assert "clean_train_32.npz is called as statistics that clean-fid made of its own resizing" in said.err


def test_dinov2_and_clip_see_the_same_pictures_and_no_distance(tmp_path: Path, real: Path) -> None:
    write_samples(tmp_path, pictures(0, 12), np.full(12, -1))
    dino = scores(tmp_path, save_dinov2(tmp_path / "dino"), "by_dino", extractor="dinov2", real=str(real))
    assert abs(dino["fd_dinov2"]) < 1e-4
    assert (dino["precision"], dino["coverage"], dino["images"], dino["reference_count"]) == (1, 1, 12, 12)
    assert "warning" not in dino  # 12 pictures, 8 numbers
    assert dino["ruler"]["extractor"] == "dinov2"
    assert dino["ruler"]["resize"].startswith("bicubic to 224x224")
    clip = scores(tmp_path, save_clip(tmp_path / "clip"), "by_clip", extractor="clip", real=str(real))
    assert abs(clip["cmmd"]) < 1e-4
    assert "clip_score" not in clip  # the samples have no prompts
    other = write_samples(tmp_path / "other", pictures(1, 12), np.full(12, -1))
    assert scores(other, tmp_path / "clip", extractor="clip", real=str(real))["cmmd"] > 1e-3


def test_a_ruler_says_how_real_pictures_were_read(tmp_path: Path, real: Path) -> None:
    write_samples(tmp_path, pictures(0, 12), np.full(12, -1))
    ruler = scores(tmp_path, save_dinov2(tmp_path / "dino"), extractor="dinov2", real=str(real))["ruler"]
    assert ruler["real_resize"]["images"] == "Pillow bicubic, antialiased, to cover; centre crop"
    assert (ruler["real_colour"], ruler["rounding"], ruler["reference_count"]) == ("convert", "to bytes", 12)
    assert ruler["extractor_weights"] == "of unknown origin"


def test_scores_of_neighbours_and_kernels_have_intervals_from_200_samples_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("tools.evaluate.extractors.inception_scores._against", lambda *given: {})
    extractor = InceptionScores(None, torch.device("cpu"), "")  # type: ignore[arg-type]
    found = extractor.scores(seen(1, 200), seen(2, 220), seed=0)
    for name in ("sfid", "kid", "precision", "recall", "density", "coverage"):
        assert 0 < found[f"{name}_interval"] < 0.3
    few = extractor.scores(seen(1, 199), seen(2, 220), seed=0)
    beside_few = set(extractor.scores(seen(1, 200), seen(2, 150), seed=0))
    assert {"precision_interval", "density_interval"} <= beside_few
    assert not {"recall_interval", "coverage_interval"} & beside_few
    only_of_many = {name for name in found if name.endswith(("_interval", "_infinite"))}
    assert set(found) - set(few) == only_of_many


def test_weights_of_the_published_hash_are_called_published() -> None:
    known = dict.fromkeys(("network", "device"), None)
    rulers = [InceptionScores(**known, sha256=sha256).ruler for sha256 in ("6726825d" + 56 * "0", 64 * "0")]  # type: ignore[arg-type]
    assert [ruler["extractor_weights"] for ruler in rulers] == ["published", "of unknown origin"]


def test_the_clip_score_pairs_each_file_with_its_prompt(tmp_path: Path, real: Path) -> None:
    network = load_clip(save_clip(tmp_path / "clip"), "weights")
    made, texts = pictures(0, 4), ["a red disc", "blue square", "a red disc", "green"]
    rows = []
    for number, (picture, text) in enumerate(zip(made, texts, strict=True)):
        Image.fromarray(picture).save(tmp_path / f"{number}.png")
        sha256 = hashlib.sha256((tmp_path / f"{number}.png").read_bytes()).hexdigest()
        rows.append({"index": number, "file": f"{number}.png", "sha256": sha256, "request": {"prompt": text}})
    (tmp_path / "samples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    size = {"count": 4, "frames": 1, "height": 16, "width": 16, "files": {"kind": "png"}}
    (tmp_path / "samples.json").write_text(json.dumps(size))
    found = scores(tmp_path, tmp_path / "clip", extractor="clip", real=str(real))
    unit = torch.nn.functional.normalize
    seen = unit(network(torch.from_numpy(made).permute(0, 3, 1, 2)))
    each = 100 * (seen * unit(network.texts(texts))).sum(1).clamp(min=0)
    assert found["clip_score"] == pytest.approx(float(each.mean()), abs=1e-3)
    assert found["clip_score_interval"] >= 0


def test_a_reference_with_pictures_gives_every_score(
    tmp_path: Path, real: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    network = save_dinov2(tmp_path / "dino")
    write_samples(tmp_path, pictures(1, 8), np.full(8, -1))
    by_pictures = scores(tmp_path, network, "by_real", extractor="dinov2", real=str(real))
    arrays: dict[str, Any] = {"arr_0": pictures(0, 12)}
    np.savez(tmp_path / "pictures.npz", **arrays)
    found = scores(tmp_path, network, "a", extractor="dinov2", reference=str(tmp_path / "pictures.npz"))
    same = ("fd_dinov2", "precision", "recall", "density", "coverage", "reference_count")
    assert [found[name] for name in same] == pytest.approx([by_pictures[name] for name in same])
    statistics = {"mu": np.zeros(8), "sigma": np.eye(8)}
    np.savez(tmp_path / "both.npz", **arrays, **statistics)
    both = scores(tmp_path, network, "b", extractor="dinov2", reference=str(tmp_path / "both.npz"))
    np.savez(tmp_path / "alone.npz", **statistics)
    capfd.readouterr()
    alone = scores(tmp_path, network, "c", extractor="dinov2", reference=str(tmp_path / "alone.npz"))
    assert "without pictures: no precision, recall, density, coverage" in capfd.readouterr().err
    assert both["fd_dinov2"] == alone["fd_dinov2"] != found["fd_dinov2"]
    assert both["precision"] == found["precision"]
    assert "precision" not in alone
    assert [each["ruler"].get("reference_statistics") for each in (found, both, alone)] == [False, True, None]
    np.savez(tmp_path / "other.npz", arr_0=np.zeros((3, 4)), **statistics)
    with pytest.raises(
        UserError, match=r"reference=.*whose arr_0 are pictures, uint8 .* not float64 \(3, 4\)"
    ):
        scores(tmp_path, network, "d", extractor="dinov2", reference=str(tmp_path / "other.npz"))


def test_too_few_samples_of_either_side_are_refused(tmp_path: Path, real: Path) -> None:
    network = save_dinov2(tmp_path / "dino")
    few = write_samples(tmp_path / "few", pictures(1, 5), np.full(5, -1))
    with pytest.raises(UserError, match=r"source=.*few: expected at least 6 images .*; it has 5"):
        scores(few, network, extractor="dinov2", real=str(real))
    enough = write_samples(tmp_path / "enough", pictures(1, 6), np.full(6, -1))
    with pytest.raises(UserError, match=r"real=.*raw: expected at least 6 images .*; it has 4"):
        scores(enough, network, extractor="dinov2", real=str(made_raw(tmp_path, 4)))


def test_fvd_is_of_clips(tmp_path: Path) -> None:
    network = save_i3d(tmp_path / "i3d.pt")
    write_samples(tmp_path, pictures(0, 24).reshape(2, 12, 16, 16, 3), np.full(2, -1))
    np.savez(tmp_path / "ref.npz", mu=np.zeros(400), sigma=np.eye(400))
    found = scores(tmp_path, network, extractor="i3d", reference=str(tmp_path / "ref.npz"))
    assert found["fvd"] > 0
    assert found["clips"] == 2
    assert "fewer than 400 clips" in found["warning"]
    images = write_samples(tmp_path / "images", pictures(0, 2), np.full(2, -1))
    with pytest.raises(UserError, match="one folder of clips, with extractor=i3d"):
        scores(images, network, extractor="i3d", reference=str(tmp_path / "ref.npz"))


def test_something_to_compare_with_is_needed(tmp_path: Path) -> None:
    write_samples(tmp_path, pictures(0, 2), np.full(2, -1))
    with pytest.raises(UserError, match="real='': expected the raw dataset"):
        evaluate.plan(evaluate.Config(source=str(tmp_path), output=str(tmp_path / "scores")))


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (
            {"extractor": "inception", "real": "r"},
            "extractor_weights='': expected the published weights",
        ),
        (
            {"extractor": "inception", "extractor_weights": "w", "real": "r", "reference": "s.npz"},
            "reference=s.npz: expected '' beside real=r",
        ),
        ({"real": "r", "reference": "s.npz"}, "reference=s.npz: expected '' with extractor=classifier"),
        (
            {"extractor": "clip", "extractor_weights": "w", "reference": "s.npz"},
            "reference=s.npz: expected '' with extractor=clip",
        ),
        (
            {"extractor": "inception", "extractor_weights": "w", "real": "r", "heldout": "h"},
            "heldout=h: expected '' with extractor=inception",
        ),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields: dict[str, str], expected: str) -> None:
    with pytest.raises(UserError) as refusal:
        evaluate.Config(source="s", output="o", **fields)  # type: ignore[arg-type]
    assert str(refusal.value).startswith(expected)


def test_two_inception_scores_and_a_word_of_a_shorter_split(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    extractor = InceptionScores(None, torch.device("cpu"), "")  # type: ignore[arg-type]
    assert (extractor.ruler["inception_split"], extractor.ruler["formulas"]) == (5000, 2)
    for module in ("features.inception_score", "extractors.inception_scores"):
        monkeypatch.setattr(f"tools.evaluate.{module}.SPLIT", 100)
    found = extractor.scores(seen(1, 200), seen(2, 220), seed=0)
    assert 1 < found["inception_score"] != found["inception_score_shuffled"] > 1
    assert 0 < found["inception_score_interval"] < 0.3
    assert "split" not in capsys.readouterr().err
    extractor.scores(seen(1, 230), seen(2, 220), seed=0)
    assert "230 images are not cut into splits of 100: the last one has 30" in capsys.readouterr().err


def seen(seed: int, count: int) -> Seen:
    features = np.random.default_rng(seed).standard_normal((count, 4)).astype(np.float32)
    moments = Moments.empty(4)
    moments.add(features)
    return Seen(features, moments, {SPATIAL: Seen(features, moments), LOGITS: features})
