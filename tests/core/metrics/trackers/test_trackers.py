"""Trackers beside a run: TensorBoard's files hold every step once, and each tracker fails alone.

Run: pytest tests/core/metrics/trackers/test_trackers.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from core.distributed.ranks import World
from core.errors import UserError, WorkError
from core.faults import failpoints
from core.metrics.rows import MetricsConfig
from core.metrics.trackers import kinds
from core.metrics.trackers.event_files import EventFiles, numbers
from core.metrics.trackers.kinds import KINDS, require_installed
from core.records import read_rows
from tests.core.toy_run import toy_trainer
from tools.runs.continuing import require_trackers

COMPARED = ("step", "loss", "grad_norm", "lr", "order_hash")


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Return steps and values of each tag, as TensorBoard reads them."""
    read = EventAccumulator(str(folder / "tensorboard"), size_guidance={"scalars": 0}).Reload()
    return {tag: [(s.step, s.value) for s in read.Scalars(tag)] for tag in read.Tags()["scalars"]}


def train(folder: Path, alone: World, *trackers: str, **fields: Any) -> list[dict[str, Any]]:
    """Train, and return the run's record without what the clock makes differ from run to run."""
    trainer = toy_trainer(folder, alone, **{"steps": 6, "save_every": 2, "save_async": False, **fields})
    trainer.metrics.config = MetricsConfig(log_every=1, **dict.fromkeys(trackers, True))
    trainer.fit()
    return [{name: row[name] for name in COMPARED} for row in read_rows(folder / "metrics.jsonl")]


def same(shown: list[tuple[int, float]], rows: list[dict[str, Any]], name: str) -> bool:
    """Return whether each row's number is shown once, to float32."""
    expected = [(row["step"], row[name]) for row in rows]
    return [step for step, _ in shown] == [step for step, _ in expected] and all(
        a == pytest.approx(b, rel=1e-6) for (_, a), (_, b) in zip(shown, expected, strict=True)
    )


def test_a_run_that_was_stopped_beyond_its_checkpoint_shows_every_step_once(
    tmp_path: Path, world: World
) -> None:
    plain = train(tmp_path / "plain", world)
    failpoints.arm("step.end@step=5:raise")
    with pytest.raises(WorkError):
        train(tmp_path / "run", world, "tensorboard", validate_every=2)
    failpoints.arm("")
    before = scalars(tmp_path / "run")["loss"]
    assert [step for step, _ in before] == [1, 2, 3, 4, 5], "step 5 is shown, and no checkpoint covers it"
    rows = train(tmp_path / "run", world, "tensorboard", validate_every=2)
    assert rows == plain, "order, losses and updates are those of a run without trackers"
    shown = scalars(tmp_path / "run")
    for name in ("loss", "grad_norm", "lr"):
        assert same(shown[name], rows, name)
    assert [step for step, _ in shown["validation/raw"]] == [2, 4, 6]
    assert "step" not in shown
    assert len(list((tmp_path / "run" / "tensorboard").iterdir())) == 2


def test_a_rollback_takes_back_what_was_shown(tmp_path: Path) -> None:
    files = EventFiles(tmp_path, 0)
    files.show([{"step": step, "loss": float(step)} for step in (1, 2, 3)])
    files.rewind(1)
    files.show([{"step": 2, "loss": 20.0}])
    files.close()
    assert scalars(tmp_path)["loss"] == [(1, 1.0), (2, 20.0)]
    again = EventFiles(tmp_path, 2)  # within the same second
    again.show([{"step": 3, "loss": 30.0}])
    again.close()
    assert scalars(tmp_path)["loss"] == [(1, 1.0), (2, 20.0), (3, 30.0)]


def test_numbers_are_shown_and_nothing_else() -> None:
    row = {"step": 3, "loss": None, "parts": [1.0], "applied": True, "ranks": {"slowest": 2, "phase": "data"}}
    assert list(numbers({**row, "grad_norm": float("inf"), "lr": 1})) == [
        ("applied", 1.0),
        ("ranks/slowest", 2.0),
        ("lr", 1.0),
    ]


class Failing:
    """A tracker that fails at the call of one of its methods."""

    def __init__(self, at: str) -> None:
        self._at = at
        if at == "begin":
            raise OSError("no network")

    def __getattr__(self, name: str) -> Any:
        def method(*arguments: Any) -> None:
            if name == self._at:
                raise ValueError("two\nlines")

        return method


@pytest.mark.parametrize("at", ["begin", "show", "show_beside", "close"])
def test_a_tracker_that_fails_is_one_line_and_one_incident_and_the_others_go_on(
    tmp_path: Path, world: World, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], at: str
) -> None:
    monkeypatch.setitem(KINDS, "wandb", lambda shown: Failing(at))
    rows = train(tmp_path, world, "wandb", "tensorboard", steps=4, validate_every=2)
    assert (tmp_path / "finished.json").exists()
    assert same(scalars(tmp_path)["loss"], rows, "loss")
    reason = "OSError: no network" if at == "begin" else "ValueError: two lines"
    said = [line for line in capfd.readouterr().err.splitlines() if "wandb" in line]
    assert said == [f"warning: wandb failed and is off from here on, metrics go to files only: {reason}"]
    (incident,) = read_rows(tmp_path / "incidents.jsonl")
    step = {"begin": 0, "show": 1, "show_beside": 2, "close": 4}[at]
    expected = {"kind": "tracker", "step": step, "tracker": "wandb", "reason": reason}
    assert {name: incident[name] for name in expected} == expected


def test_files_that_cannot_be_written_are_an_incident(
    tmp_path: Path, world: World, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "tensorboard").write_text("a file, where the folder would be")
    train(tmp_path, world, "tensorboard", steps=2)
    (incident,) = read_rows(tmp_path / "incidents.jsonl")
    assert incident["reason"].startswith("FileExistsError: ")
    assert capfd.readouterr().err.count("tensorboard failed and is off from here on") == 1


@pytest.mark.parametrize("name", KINDS)
def test_a_tracker_that_is_not_installed_is_refused_at_the_start_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(kinds.importlib.util, "find_spec", lambda package: None)
    config = MetricsConfig(**{name: True})
    line = rf"^{name}=true: expected false, or: pip install 'longtake\[{name}\]'$"
    with pytest.raises(UserError, match=line):
        require_installed(config.trackers)
    with pytest.raises(UserError, match=rf"^metrics\.{name}=true"):
        require_trackers(tmp_path, config, overwrite=False)
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1}) + "\n")
    require_trackers(tmp_path, config, overwrite=False)
    with pytest.raises(UserError, match=rf"^metrics\.{name}=true"):
        require_trackers(tmp_path, config, overwrite=True)
    require_trackers(tmp_path, MetricsConfig(), overwrite=True)


def test_a_folder_of_a_trackers_name_is_no_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nowhere_installed").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(UserError, match=r"^nowhere_installed=true"):
        require_installed(["nowhere_installed"])
