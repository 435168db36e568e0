"""Scores by a classifier, and of an autoencoder, have the same bytes for any number of workers."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest

from core.errors import UserError, WorkError
from core.queue.shared_job import LEASES
from tests.core.ranks import run_ranks
from tests.tools.evaluate import shared_material as material
from tests.tools.evaluate.evaluate_workers import start_worker
from tools.evaluate import by_classifier
from tools.evaluate import job as evaluate
from tools.evaluate.classified import real_looks

PUBLISHED = ["closest_pairs.png", "config.yaml", "real_images.png", "scores.json"]
SLOW = "evaluate.batch:sleep=0.1"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    material.make(folder)
    return folder


@pytest.fixture(autouse=True)
def many_units(monkeypatch: pytest.MonkeyPatch) -> None:
    material.cut_small(monkeypatch)


def content(output: Path) -> dict[str, bytes]:
    """Every file by name, but the config, which names the output."""
    return {path.name: path.read_bytes() for path in output.iterdir() if path.name != "config.yaml"}


@pytest.fixture(scope="module")
def alone(made: Path) -> Path:
    """Return evaluations by one process."""
    with pytest.MonkeyPatch.context() as patch:
        material.cut_small(patch)
        evaluate.run(material.by_classifier(made, made / "alone/fifth"))
        evaluate.run(material.by_classifier(made, made / "alone/classified", heldout=str(made / "heldout")))
        evaluate.run(material.of_copies(made, made / "alone/copies"))
    assert sorted(path.name for path in (made / "alone/fifth").iterdir()) == PUBLISHED
    return made / "alone"


@pytest.mark.multiprocess
def test_two_ranks_score_as_one(made: Path, alone: Path, tmp_path: Path) -> None:
    """Of what overwriting begins anew, for which ranks meet."""
    for name in ("classified", "copies"):
        (tmp_path / name).mkdir()
    run_ranks(
        2, "-m", "tests.tools.evaluate.shared_material", str(made), str(tmp_path), str(made / "heldout")
    )
    for name in ("classified", "copies"):
        assert content(tmp_path / name) == content(alone / name)
        scores = json.loads((alone / name / "scores.json").read_text())
        assert all(value is not None for value in scores.values())
    assert {"psnr_db", "ssim"} < scores.keys()


@pytest.mark.full
@pytest.mark.multiprocess
@pytest.mark.parametrize("dies", ["evaluate.train:kill", "evaluate.publish:kill"])
def test_a_worker_that_is_killed_changes_no_byte(made: Path, alone: Path, tmp_path: Path, dies: str) -> None:
    chosen = material.by_classifier(made, tmp_path / "fifth")
    killed = start_worker(chosen, dies)
    killed.join(60)
    assert killed.exitcode == -signal.SIGKILL
    first, second = (start_worker(chosen, SLOW) for _ in range(2))
    for worker in (first, second):
        worker.join(60)
    assert (first.exitcode, second.exitcode) == (0, 0)
    assert content(tmp_path / "fifth") == content(alone / "fifth")
    assert not (tmp_path / "fifth" / LEASES).exists()


def test_scores_do_not_depend_on_how_samples_are_cut(made: Path, alone: Path, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(material, "UNIT", 1000)
        material.cut_small(patch)
        evaluate.run(material.by_classifier(made, tmp_path / "fifth"))
    found, expected = (json.loads((p / "fifth/scores.json").read_text()) for p in (tmp_path, alone))
    assert found.pop("closest_pairs") == expected.pop("closest_pairs")
    for name in ("of", "ruler", "subject", "warning"):
        assert found.pop(name) == expected.pop(name)
    assert found == pytest.approx(expected, rel=1e-4)


def test_the_classifier_is_trained_once_and_real_samples_are_looked_at_once(
    made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained, train = list[int](), by_classifier.trained
    monkeypatch.setattr(
        by_classifier,
        "trained",
        lambda *words: trained.append(1) or train(*words),  # type: ignore[func-returns-value]
    )
    chosen = material.by_classifier(made, tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr("tools.evaluate.classified.verdicts.Verdicts.publish", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            evaluate.run(chosen)
    assert (tmp_path / "out" / real_looks.JUDGE).is_file()
    evaluate.run(chosen)
    assert trained == [1]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == PUBLISHED


@pytest.mark.full
def test_a_damaged_classifier_is_trained_anew(made: Path, alone: Path, tmp_path: Path) -> None:
    chosen = material.by_classifier(made, tmp_path / "fifth")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tools.evaluate.classified.verdicts.Verdicts.numbers", lambda self, unit: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            evaluate.run(chosen)
    judge = tmp_path / "fifth" / real_looks.JUDGE
    judge.write_bytes(judge.read_bytes()[:100])
    with pytest.raises(WorkError, match=r"judge\.safetensors cannot be read.*trains the classifier again"):
        evaluate.run(chosen)
    evaluate.run(chosen)
    assert content(tmp_path / "fifth") == content(alone / "fifth")


def test_a_fifth_is_held_out_and_nothing_is_lost(made: Path, tmp_path: Path) -> None:
    config = material.by_classifier(made, tmp_path)
    seen: dict[str, real_looks.Split] = {}

    def train(real: real_looks.RealLooks, *_: int) -> None:
        seen.update({name: real.split(name) for name in ("images", "clips")})
        raise WorkError("enough")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(by_classifier, "trained", train)
        with pytest.raises(WorkError, match="enough"):
            evaluate.run(config)
    for name, count in (("images", material.REAL), ("clips", material.CLIPS)):
        split = seen[name]
        assert len(split.heldout) == round(0.2 * count)
        together = np.concatenate([split.train.places, split.heldout.places])
        assert sorted(together) == list(range(count))


def test_what_one_process_measures_is_refused_to_several() -> None:
    with pytest.raises(UserError, match="processes=2: expected 1, since a result is imported"):
        evaluate.Config(source="s", output="o", processes=2, imported="r.json", package="p")
