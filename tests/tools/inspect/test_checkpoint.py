"""The job `inspect` on checkpoints and runs. Run: pytest tests/tools/inspect/test_checkpoint.py"""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from core.checkpoint.store import CheckpointStore
from core.checkpoint.weights import load_weights
from core.distributed import ranks
from core.errors import UserError
from core.run.code import code
from launch import cli
from tests.core.toy_run import ToyModel, toy_trainer
from tests.core.train.adversarial_run import adversarial_trainer
from tools.inspect.config import Config
from tools.inspect.job import plan

SHORT = {"steps": 4, "save_every": 2, "power_widths": (0.05,), "snapshot_every": 3}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 4 steps: checkpoints after 2 and 4, a copy of an average after 3."""
    folder = tmp_path_factory.mktemp("run")
    toy_trainer(folder, ranks.start("cpu", 60), **SHORT).fit()
    return folder


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    """A copy to damage."""
    return Path(shutil.copytree(trained, tmp_path / "run"))


def newest(run: Path) -> Path:
    path = CheckpointStore(run / "checkpoints").latest()
    assert path is not None
    return path


def told(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    status = cli.main(["inspect", *words])
    return status, *capsys.readouterr()


def test_a_checkpoint_with_its_shapes_and_norms(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status, text, _ = told(capsys, str(newest(trained)), "format=json")
    found = json.loads(text)
    assert (status, found["step"], found["updates"], found["ranks"]) == (0, 4, 4, 1)
    assert found["kinds"] == ["weight", "exp_avg", "exp_avg_sq", "ema-0.9", "ema-0.5", "ema-sigma-0.05"]
    parameters = {name: p for name, p in ToyModel().named_parameters() if p.requires_grad}
    assert {t["name"]: t["shape"] for t in found["tensors"]} == {n: [*p.shape] for n, p in parameters.items()}
    assert found["numbers"] == sum(p.numel() for p in parameters.values())
    for kind, which in (("weight", "raw"), ("ema-0.9", "ema")):
        weights = load_weights(trained, which)
        for tensor in found["tensors"]:
            assert math.isclose(tensor["norms"][kind], float(weights[tensor["name"]].norm()), rel_tol=1e-5)
        norm = torch.cat([weights[name].flatten() for name in parameters]).norm()
        assert math.isclose(found["norms"][kind], float(norm), rel_tol=1e-5)
    status, text, _ = told(capsys, str(newest(trained)))
    assert status == 0
    assert "step 4, 4 updates, by 1 rank" in text
    assert "65x33" in text
    assert text.endswith("every file is as it was written\n")


def test_the_commit_is_told_of_a_run_and_of_each_checkpoint(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, text, _ = told(capsys, str(run), "format=json")
    found, shown = json.loads(text), str(code())
    assert status == 0
    assert found["code"] == code().as_dict()
    assert [entry["code"] for entry in found["checkpoints"]] == [code().as_dict()] * 2
    text = told(capsys, str(run))[1]
    assert f"last started with {shown}\n" in text
    assert text.count(f"  made with {shown}\n") == 2  # the checkpoints, and the copies of averages
    assert f"made with {shown}\n" in told(capsys, str(newest(run)))[1]


def test_a_checkpoint_of_two_networks_tells_of_both(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adversarial_trainer(tmp_path, ranks.start("cpu", 60), steps=2).fit()
    found = json.loads(told(capsys, str(newest(tmp_path)), "format=json")[1])
    assert [t["shape"] for t in found["tensors"] if t["name"] == "first.weight"] == [[29, 5]]
    (critic,) = found["networks"].values()
    assert (critic["kinds"][-1], critic["numbers"]) == ("ema-0.5", 29 * 33 + 29 + 3 * 29 + 3)
    weights = load_weights(tmp_path, "raw", "critic")
    for tensor in critic["tensors"]:
        assert tensor["norms"]["weight"] == pytest.approx(float(weights[tensor["name"]].norm()), rel=1e-6)
    assert "network critic, 1,076 numbers:" in told(capsys, str(newest(tmp_path)))[1]


def test_a_damaged_checkpoint_is_named(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = newest(run) / "rank-00000.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    status, text, error = told(capsys, str(newest(run)))
    assert status == 1
    assert f"{path} differs from its SHA-256 in manifest.json" in text
    assert f"1 of 4 files are not as they were written: {newest(run).name}/{path.name}" in error
    assert len(error.splitlines()) == 1


@pytest.mark.parametrize("name", ["state.json", "manifest.json"])
def test_a_checkpoint_whose_own_record_is_damaged(
    run: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (newest(run) / name).write_text("{")
    status, _, error = told(capsys, str(newest(run)))
    assert (status, name in error) == (1, True)
    status, _, error = told(capsys, str(run))
    assert (status, newest(run).name in error) == (1, True)


def test_a_run_lists_all_that_it_has(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "checkpoints" / "step-00000009.local.9").mkdir()
    status, text, _ = told(capsys, str(run))
    assert status == 0
    rows = [line.split() for line in text.splitlines() if line.endswith(".local.1")]
    assert [(row[0], row[1], row[2], row[4]) for row in rows] == [
        ("4", "4", "1", "step-00000004.local.1"),
        ("2", "2", "1", "step-00000002.local.1"),
        ("3", "3", "1", "step-00000003.local.1"),
    ]
    assert "step-00000009.local.9: incomplete" in text
    for folder in (run / "checkpoints", run / "ema"):
        assert told(capsys, str(folder), "action=verify")[0] == 0


def test_a_run_without_a_checkpoint_is_said_to_have_none(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in (run / "checkpoints").glob("step-*"):
        (folder / "manifest.json").unlink()
    status, text, _ = told(capsys, str(run))
    assert (status, text.count("none that is complete")) == (0, 1)


def test_verify_of_a_run_hashes_every_checkpoint(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "all 12 files are as they were written" in told(capsys, str(run), "action=verify")[1]
    older = CheckpointStore(run / "checkpoints").complete()[1].path
    shutil.copy(newest(run) / "rank-00000.safetensors", older / "rank-00000.safetensors")
    assert told(capsys, str(run))[0] == 0  # listed, not hashed
    status, text, error = told(capsys, str(run), "action=verify")
    assert (status, f"{older.name}: DAMAGED" in text) == (1, True)
    assert f"{older.name}/rank-00000.safetensors" in error


def test_what_is_refused(trained: Path, tmp_path: Path) -> None:
    assert plan(Config(source=str(trained))) == [f"list all checkpoints of {trained}"]
    assert plan(Config(source=str(newest(trained))))[0].startswith("hash every file of")
    assert cli.main(["inspect", str(trained), "action=reindex"]) == 2
    assert cli.main(["inspect", str(trained), f"sheet={tmp_path / 'x.png'}"]) == 2
    with pytest.raises(UserError, match="a run or an export; this folder is empty"):
        plan(Config(source=str(tmp_path)))
