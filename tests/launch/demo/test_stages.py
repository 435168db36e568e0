"""Chains of commands: finished stages are passed over, failures name stage, command and log."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from core.errors import UserError, WorkError
from launch.demo.stage_records import Record
from launch.demo.stages import Command, Stage, run_stages


def digits(folder: Path, name: str, **fields: object) -> Stage:
    """Return a stage whose job is quick and real."""
    fields = {"output": folder / name, "digits": 100, "clips": 0, **fields}
    return Stage(name, lambda: [Command("digits", fields, folder / name / "digits.json")])


def record(folder: Path) -> Record:
    return Record(folder / "stages.json", {"digits": True})


def read(folder: Path) -> list[dict]:
    return json.loads((folder / "stages.json").read_text())["stages"]


def test_stages_run_once_and_are_found_finished(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    first = record(tmp_path)
    run_stages([digits(tmp_path, "a")], first, tmp_path / "logs")
    err = capfd.readouterr().err
    assert "stage 1 of 1: a" in err
    assert "write digits: 100 files" in err
    assert "write digits: 100 files" in (tmp_path / "logs/a.log").read_text()
    (entry,) = read(tmp_path)
    assert entry["seconds"] > 0
    assert entry["commands"][0].startswith("python -m launch digits output=")
    manifest = tmp_path / "a/digits.json"
    written = manifest.stat().st_mtime_ns
    run_stages([digits(tmp_path, "a")], first, tmp_path / "logs")
    assert "stage 1 of 1: a: finished earlier" in capfd.readouterr().err
    assert manifest.stat().st_mtime_ns == written
    manifest.unlink()
    run_stages([digits(tmp_path, "a")], first, tmp_path / "logs")
    assert manifest.exists()


def test_a_failure_names_stage_command_and_log(tmp_path: Path) -> None:
    bad, chain = digits(tmp_path, "b", digits=7), record(tmp_path)
    with pytest.raises(UserError) as caught:
        run_stages([bad], chain, tmp_path / "logs")
    message = str(caught.value)
    assert "stage 1 of 1: b failed (exit status 2): longtake digits: digits=7" in message
    assert f"command: python -m launch digits output={tmp_path / 'b'} digits=7" in message
    assert f"log: {tmp_path / 'logs/b.log'}" in message
    assert "digits=7" in (tmp_path / "logs/b.log").read_text()
    (failed,) = read(tmp_path)
    assert failed["identity"] == ""
    assert failed["error"] == message
    with pytest.raises(UserError):
        run_stages([bad], chain, tmp_path / "logs")
    assert read(tmp_path)[0]["seconds"] > failed["seconds"]  # what it took in all


def test_a_stage_of_another_recipe_stays_finished_and_the_way_out_is_named(tmp_path: Path) -> None:
    chain = record(tmp_path)
    run_stages([digits(tmp_path, "a")], chain, tmp_path / "logs")
    before = read(tmp_path)
    with pytest.raises(UserError, match=r"a was finished with other settings.*take another output=.*seed=1"):
        run_stages([digits(tmp_path, "a", seed=1)], chain, tmp_path / "logs")
    assert read(tmp_path) == before
    run_stages([digits(tmp_path, "a")], chain, tmp_path / "logs")
    assert read(tmp_path) == before


def test_a_job_without_its_result_has_failed(tmp_path: Path) -> None:
    fields = {"output": tmp_path / "a", "digits": 100, "clips": 0}
    stage = Stage("a", lambda: [Command("digits", fields, tmp_path / "a" / "other.json")])
    with pytest.raises(WorkError, match=r"did not write .*other.json"):
        run_stages([stage], record(tmp_path), tmp_path / "logs")


def test_a_changed_recipe_is_not_taken_for_finished(tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("clips: 0\n")
    fields = {"output": tmp_path / "a", "digits": 100}
    stage = Stage("a", lambda: [Command("digits", fields, tmp_path / "a/digits.json", [recipe])])
    chain = record(tmp_path)
    run_stages([stage], chain, tmp_path / "logs")
    recipe.write_text("clips: 10\n")
    with pytest.raises(UserError, match="clips=10: expected 0"):
        run_stages([stage], chain, tmp_path / "logs")


def test_a_stage_is_looked_at_again_where_an_earlier_one_made_something_else(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Its own command is the same, and its files are there; what they were made from is not."""
    chain, stages = record(tmp_path), [digits(tmp_path, "a"), digits(tmp_path, "b")]
    run_stages(stages, chain, tmp_path / "logs")
    run_stages(stages, chain, tmp_path / "logs")
    assert capfd.readouterr().err.count("finished earlier") == 2
    (tmp_path / "a/digits.json").write_text("{}")  # as another command would leave it
    run_stages(stages, chain, tmp_path / "logs")
    assert "finished earlier" not in capfd.readouterr().err
    run_stages(stages, chain, tmp_path / "logs")
    assert capfd.readouterr().err.count("finished earlier") == 2


def test_stages_noted_by_an_earlier_version_are_taken_as_they_are(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    chain = record(tmp_path)
    run_stages([digits(tmp_path, "a")], chain, tmp_path / "logs")
    for name in ("inputs", "outcome"):
        del chain.stages["a"][name]
    capfd.readouterr()
    run_stages([digits(tmp_path, "a")], chain, tmp_path / "logs")
    assert "finished earlier" in capfd.readouterr().err


def test_commands_can_be_typed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my recipe.yaml").touch()
    command = Command(
        "train", {"output": "a b"}, Path("x"), [tmp_path / "my recipe.yaml", Path("/etc/x.yaml")]
    )
    assert command.text() == "python -m launch train 'my recipe.yaml' /etc/x.yaml 'output=a b'"


def test_leaving_ends_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[int] = []

    def interrupt(process, label, log, show):
        started.append(process.pid)
        raise KeyboardInterrupt

    monkeypatch.setattr("launch.demo.stages._copy_lines", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_stages([digits(tmp_path, "a")], record(tmp_path), tmp_path / "logs")
    with pytest.raises(ProcessLookupError):
        os.kill(started[0], 0)
    assert read(tmp_path)[0]["identity"] == ""


def test_the_record_is_shown_before_and_after_every_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("launch.demo.stages.SHOW_PERIOD_S", float("inf"))  # however slow this machine is
    seen: list[list[tuple[str, bool]]] = []

    def show() -> None:
        seen.append([(stage["name"], bool(stage["identity"])) for stage in read(tmp_path)])

    stages = [digits(tmp_path, "a"), digits(tmp_path, "b")]
    run_stages(stages, record(tmp_path), tmp_path / "logs", show)
    assert seen == [[("a", False)], [("a", True)], [("a", True), ("b", False)], [("a", True), ("b", True)]]
    assert json.loads((tmp_path / "stages.json").read_text())["planned"] == ["a", "b"]


def test_long_work_is_shown_while_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("launch.demo.stages.SHOW_PERIOD_S", 0.0)
    shown: list[int] = []
    run_stages([digits(tmp_path, "a")], record(tmp_path), tmp_path / "logs", lambda: shown.append(1))
    assert len(shown) > 2  # the first and the last are those of the record


def test_a_stage_that_cannot_say_its_commands_leaves_the_reason(tmp_path: Path) -> None:
    def commands() -> list[Command]:
        raise UserError("source", "x", "pictures")

    with pytest.raises(UserError):
        run_stages([Stage("a", commands)], record(tmp_path), tmp_path / "logs")
    assert read(tmp_path)[0]["error"] == "source=x: expected pictures"
