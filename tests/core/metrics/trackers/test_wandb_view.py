"""wandb beside a run: each step once, and nothing it does wrong reaches training.

wandb is a module of the tests' own here, which the view's process imports in its place.

Run: pytest tests/core/metrics/trackers/test_wandb_view.py
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from core.distributed.ranks import World
from core.metrics.rows import MetricsConfig
from core.metrics.trackers import wandb_view
from core.metrics.trackers.wandb_view import WandbView
from core.records import read_rows
from core.root import ROOT
from tests.core.toy_run import toy_trainer

FAKE = """
import json, os, pathlib, time
FILE = pathlib.Path(os.environ["FAKE_WANDB"])
def note(**what):
    with FILE.open("a") as file:
        file.write(json.dumps(what) + chr(10))
def noted():
    return [json.loads(line) for line in FILE.open()] if FILE.exists() else []
class Run:
    @property
    def step(self):  # as of wandb: the step that comes next, of a run that is resumed too
        return max((row["step"] for row in noted() if "step" in row), default=-1) + 1
    def log(self, values, step):
        AT_LOG
        note(step=step, values=values)
    def finish(self, exit_code):
        note(exit_code=exit_code)
def Settings(**fields):
    return fields
def init(**fields):
    note(id=fields["id"], config=fields["config"])
    return Run()
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the stand-in module, and of its calls; `at_log` changes its action then."""
    monkeypatch.setenv("FAKE_WANDB", str(tmp_path / "told"))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    at_log(tmp_path, "pass")
    return tmp_path


def at_log(fake: Path, does: str) -> None:
    (fake / "wandb.py").write_text(FAKE.replace("AT_LOG", does))


def told(fake: Path) -> list[dict[str, Any]]:
    """Return the module's calls so far: it may not have been started yet, or have an empty file."""
    file = fake / "told"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def rows(first: int, count: int) -> list[dict[str, Any]]:
    return [{"step": step, "loss": 0.5 * step, "parts": [1.0]} for step in range(first, first + count)]


def test_every_step_is_shown_once_under_one_identity(fake: Path) -> None:
    for first in (1, 2, 3):  # the second time one step comes again, the third time another
        view = WandbView(fake, "p", {"seed": 1})
        view.show(rows(first, 2))
        view.show(rows(first, 1))  # after a rollback
        view.show_beside(first + 1, {"validation/raw": 0.5})
        view.close()
    shown = [row for row in told(fake) if "loss" in row.get("values", {})]
    expected = [{name: v for name, v in row.items() if name != "parts"} for row in rows(1, 4)]
    assert [row["values"] for row in shown] == expected
    beside = [row for row in told(fake) if "values" in row and row not in shown]
    assert beside == [{"step": step, "values": {"validation/raw": 0.5}} for step in (2, 3, 4)]
    identity = json.loads((fake / "wandb.json").read_text())["id"]
    assert [row["id"] for row in told(fake) if "id" in row] == [identity] * 3
    assert [row["exit_code"] for row in told(fake) if "exit_code" in row] == [0] * 3


def test_validation_of_a_step_that_is_not_the_last_shown_is_left_out(fake: Path) -> None:
    view = WandbView(fake, "p", {})
    view.show(rows(5, 1))
    view.show_beside(4, {"validation/raw": 0.5})
    view.close()
    assert [row["step"] for row in told(fake) if "step" in row] == [5]


def train(folder: Path, alone: World, wandb: bool) -> list[dict[str, Any]]:
    """Train, and return the run's record without what the clock makes differ from run to run."""
    trainer = toy_trainer(folder, alone, steps=4, save_every=2)
    trainer.metrics.config = MetricsConfig(log_every=1, wandb=wandb)
    trainer.fit()
    assert (folder / "finished.json").exists()
    kept = ("step", "loss", "grad_norm", "lr", "order_hash")
    return [{name: row[name] for name in kept} for row in read_rows(folder / "metrics.jsonl")]


@pytest.mark.parametrize(
    ("does", "warning"),
    [
        ("raise ConnectionError('network down')", "wandb failed and is off"),
        ("os.kill(os.getpid(), 9)", "wandb has ended with status -9"),
        ("time.sleep(1000)", "wandb had not sent all in 0.2 s"),
    ],
    ids=["raises", "dies", "blocks"],
)
def test_training_is_the_same_whatever_wandb_does(
    fake: Path,
    world: World,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    does: str,
    warning: str,
) -> None:
    plain = train(fake / "plain", world, wandb=False)
    at_log(fake, does)
    monkeypatch.setattr(wandb_view, "FINISH_S", 0.2 if "sleep" in does else 60.0)
    assert train(fake / "shown", world, wandb=True) == plain
    assert [row["step"] for row in plain] == [1, 2, 3, 4]
    (incident,) = read_rows(fake / "shown" / "incidents.jsonl")
    assert (incident["kind"], incident["tracker"]) == ("tracker", "wandb")
    said = capfd.readouterr().err
    assert [line for line in said.splitlines() if "warning: wandb" in line] == [
        line for line in said.splitlines() if warning in line
    ]
    assert said.count(warning) == 1


def test_a_missing_wandb_is_a_warning(fake: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (fake / "wandb.py").write_text("raise ImportError('No module named wandb')")
    view = WandbView(fake, "p", {})
    view.show(rows(1, 2))
    view.close()
    assert capfd.readouterr().err.count("wandb could not start") == 1


def test_rows_that_are_not_taken_are_left_out_with_one_warning(
    fake: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    at_log(fake, "time.sleep(1000)")
    monkeypatch.setattr(wandb_view, "WAITING_BYTES", 4000)
    monkeypatch.setattr(wandb_view, "FINISH_S", 0.1)
    view = WandbView(fake, "p", {})
    view.show(rows(1, 20000))  # about 1 MB; a pipe takes 64 KiB
    assert len(view._waiting) <= 4000
    view.close()
    assert capfd.readouterr().err.count("does not keep up") == 1


def test_a_run_that_is_killed_leaves_no_view_behind(fake: Path) -> None:
    """The view sees the end of the pipe, and shows the run as failed."""
    program = """
import os, pathlib, sys
from core.metrics.trackers.wandb_view import WandbView
WandbView(pathlib.Path(sys.argv[1]), "p", {}).show([{"step": 1, "loss": 1.0}])
os.kill(os.getpid(), 9)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(fake)])}
    done = subprocess.run([sys.executable, "-c", program, str(fake)], env=environment, check=False)
    assert done.returncode == -9
    deadline = time.monotonic() + 60
    while not any("exit_code" in row for row in told(fake)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert [row.get("step", row.get("exit_code")) for row in told(fake)[1:]] == [1, 1]
