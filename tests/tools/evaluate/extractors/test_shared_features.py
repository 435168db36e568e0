"""Workers that share a score: its bytes do not depend on how many there are, or on which are killed."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from core.errors import UserError, WorkError
from core.queue.config import QueueConfig
from core.queue.shared_job import LEASES
from data.media.formats import MediaError
from tests.integration.tiny_run import finish
from tests.models.public_models import save_dinov2, save_i3d
from tests.tools.evaluate.evaluate_workers import start_worker
from tests.tools.evaluate.test_job import write_samples
from tools.evaluate import job as evaluate
from tools.evaluate import real_samples
from tools.evaluate.extractors import feature_units
from tools.evaluate.extractors.dinov2_scores import DinoV2Scores
from tools.shard import job as shard

UNIT, MADE, REAL = 4, 14, 22
SLOW = "evaluate.batch:sleep=0.2"


def pictures(seed: int, count: int) -> np.ndarray:
    smooth = np.random.default_rng(seed).integers(0, 256, (count, 4, 4, 3), np.uint8)
    return smooth.repeat(4, 1).repeat(4, 2)


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_units, "IMAGES", UNIT)
    monkeypatch.setattr(feature_units, "CLIPS", UNIT)


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("material")
    (folder / "files").mkdir()
    for number, picture in enumerate(pictures(0, REAL)):
        Image.fromarray(picture).save(folder / f"files/{number:02d}.png")
    shard.run(shard.Config(source=str(folder / "files"), output=str(folder / "raw")))
    write_samples(folder / "samples", pictures(1, MADE), np.full(MADE, -1))
    save_dinov2(folder / "dino")
    return folder


def config(material: Path, output: Path, **fields: Any) -> evaluate.Config:
    known: dict[str, Any] = {"extractor": "dinov2", "extractor_weights": str(material / "dino"), "batch": 3}
    known |= {"real": str(material / "raw"), "device": "cpu", "queue": QueueConfig(heartbeat_s=0.1)}
    return evaluate.Config(source=str(material / "samples"), output=str(output), **known | fields)


@pytest.fixture(scope="module")
def alone(material: Path) -> bytes:
    """Return the scores that one process gives."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_units, "IMAGES", UNIT)
        evaluate.run(config(material, material / "alone"))
    assert {path.name for path in (material / "alone").iterdir()} == {"config.yaml", "scores.json"}
    return (material / "alone/scores.json").read_bytes()


@pytest.mark.multiprocess
def test_two_workers_of_which_one_is_killed_give_the_scores_of_one(
    material: Path, alone: bytes, tmp_path: Path
) -> None:
    chosen = config(material, tmp_path / "shared")
    first, second = (start_worker(chosen, SLOW) for _ in range(2))
    while len(list((tmp_path / "shared").glob("parts/*.npz"))) < 2:
        first.join(0.01)
    first.kill()
    for worker in (first, second):
        worker.join(60)
    assert [worker.exitcode for worker in (first, second)] == [-signal.SIGKILL, 0]
    assert (tmp_path / "shared/scores.json").read_bytes() == alone


@pytest.mark.multiprocess
@pytest.mark.parametrize("fault", ["evaluate.batch:kill", "evaluate.publish:kill"])
def test_the_same_command_goes_on_after_a_kill(
    material: Path, alone: bytes, tmp_path: Path, fault: str
) -> None:
    chosen = config(material, tmp_path / "killed")
    killed = start_worker(chosen, fault)
    killed.join(60)
    assert killed.exitcode == -signal.SIGKILL
    evaluate.run(chosen)
    assert (tmp_path / "killed/scores.json").read_bytes() == alone
    assert not (tmp_path / "killed" / LEASES).exists()


def test_parts_that_are_damaged_or_of_something_else_are_made_anew(
    material: Path, alone: bytes, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_units.FeatureUnits, "publish", lambda self: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            evaluate.run(config(material, output))
    parts = sorted((output / "parts").iterdir())
    assert [path.name for path in parts[:2]] == ["made-000000-000003.npz", "made-000004-000007.npz"]
    assert len(parts) == 4 + 6
    parts[0].write_bytes(parts[0].read_bytes()[:-50])
    parts[1].write_bytes(parts[2].read_bytes().replace(b"made_from", b"made_form"))
    (output / "parts/other.npz").write_bytes(b"")
    evaluate.run(config(material, output))
    assert (output / "scores.json").read_bytes() == alone
    assert capfd.readouterr().err.count("it is made again") == 3


def test_pictures_that_cannot_be_read_leave_their_units_smaller(
    material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, calls = real_samples.decode_media, []

    def some(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        if len(calls) in (1, 2, 3, 4, 7):  # a whole unit, and one of another
            raise MediaError("damaged")
        return decode(*arguments, **named)

    monkeypatch.setattr(real_samples, "decode_media", some)
    evaluate.run(config(material, tmp_path / "out"))
    assert json.loads((tmp_path / "out/scores.json").read_text())["reference_count"] == REAL - 5

    def none(*_: Any, **__: Any) -> Any:
        raise MediaError("damaged")

    monkeypatch.setattr(real_samples, "decode_media", none)
    with pytest.raises(WorkError, match="no readable image to compare with"):
        evaluate.run(config(material, tmp_path / "none"))


def test_samples_that_fail_are_named_and_the_others_kept(
    material: Path, alone: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    numbers, failing = DinoV2Scores.numbers, pictures(1, MADE)[5]

    def fail(self: Any, batch: np.ndarray) -> Any:
        if (batch == failing).all((1, 2, 3)).any():
            raise RuntimeError("out of luck")
        return numbers(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(DinoV2Scores, "numbers", fail)
        with pytest.raises(WorkError, match=r"1 of 10 parts failed .*: made-000004-000007: .*out of luck"):
            evaluate.run(config(material, tmp_path / "out"))
    evaluate.run(config(material, tmp_path / "out"))
    assert (tmp_path / "out/scores.json").read_bytes() == alone


def test_clips_are_shared_too(tmp_path: Path) -> None:
    network = save_i3d(tmp_path / "i3d.pt")
    write_samples(tmp_path / "clips", pictures(0, 6 * 12).reshape(6, 12, 16, 16, 3), np.full(6, -1))
    np.savez(tmp_path / "ref.npz", mu=np.zeros(400), sigma=np.eye(400))
    known: dict[str, Any] = {"extractor": "i3d", "extractor_weights": str(network), "device": "cpu"}
    known |= {"source": str(tmp_path / "clips"), "reference": str(tmp_path / "ref.npz"), "batch": 2}
    found = []
    for unit in (64, 2):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(feature_units, "CLIPS", unit)
            evaluate.run(evaluate.Config(output=str(tmp_path / f"by-{unit}"), **known))
        found.append(json.loads((tmp_path / f"by-{unit}/scores.json").read_text())["fvd"])
    assert found[0] == pytest.approx(found[1], rel=1e-9)


@pytest.mark.full
@pytest.mark.multiprocess
def test_the_command_starts_workers_itself(material: Path, alone: bytes, tmp_path: Path) -> None:
    words = ["-m", "launch", "evaluate", str(material / "samples"), f"real={material / 'raw'}", "device=cpu"]
    words += ["extractor=dinov2", f"extractor_weights={material / 'dino'}", "processes=2"]
    status, said = finish([sys.executable, *words, f"output={tmp_path / 'out'}"])
    assert status == 0, said
    found, expected = (json.loads(each) for each in ((tmp_path / "out/scores.json").read_bytes(), alone))
    assert found["fd_dinov2"] == pytest.approx(expected["fd_dinov2"], rel=1e-6)  # in other batches
    assert found["ruler"] == expected["ruler"]


def test_tasks_of_another_launcher_are_refused_what_one_process_measures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="tasks=2: expected 1, since a result is imported"):
        evaluate.run(evaluate.Config(source="run", output=str(tmp_path), imported="r.json", package="p"))
