"""What `auto`s and defaults of a run stand for: recorded once, kept, and refused where it makes no sense."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.config.yaml_files import HEADER
from core.errors import WorkError
from core.files import write_text
from core.memory.choices import EARLIER, begun_with, chosen, kept_defaults, note


def config(run: Path, text: str) -> None:
    write_text(run / "config.yaml", f"{HEADER}train\n{text}")


def test_the_first_choice_stays(tmp_path: Path) -> None:
    config(tmp_path, "engine: {zero_stage: auto, compile: auto}")
    assert begun_with(tmp_path, "zero_stage") is None
    note(tmp_path, 4, {"zero_stage": 2, "kind": "deepspeed"})
    note(tmp_path, 8, {"zero_stage": 0, "compile": True})
    assert begun_with(tmp_path, "zero_stage") == {"value": 2, "ranks": 4}
    assert begun_with(tmp_path, "compile") == {"value": True, "ranks": 8}
    config(tmp_path, "engine: {zero_stage: 1}")
    assert begun_with(tmp_path, "zero_stage") == {"value": 1, "ranks": 0}


def test_a_run_of_an_earlier_version_keeps_what_was_usual_then(tmp_path: Path) -> None:
    config(tmp_path, "seed: 1")
    for field, usual in EARLIER.items() - {("shard_ranks", 0)}:
        assert begun_with(tmp_path, field) == {"value": usual, "ranks": 0}
    assert EARLIER["compile"] is False


@pytest.mark.parametrize(
    "text",
    [
        '{"zero_stage": {"value": 4, "ranks": 2}}',
        '{"zero_stage": {"value": true, "ranks": 2}}',
        '{"zero_stage": {"value": 1, "ranks": 0}}',
        '{"compile": {"value": 1, "ranks": 2}}',
        '{"compile": {"value": "yes", "ranks": 2}}',
        '{"zero_stage": 1}',
        "[]",
    ],
)
def test_a_record_that_makes_no_sense_is_refused(tmp_path: Path, text: str) -> None:
    write_text(tmp_path / "choices.json", text)
    with pytest.raises(WorkError, match=r"choices\.json"):
        chosen(tmp_path)


@pytest.mark.parametrize("text", ['{"ranks": 2, "zero_stage": 4}', '{"ranks": 0, "zero_stage": 1}', "[]"])
def test_an_earlier_record_that_makes_no_sense_is_refused(tmp_path: Path, text: str) -> None:
    write_text(tmp_path / "zero_stage.json", text)
    with pytest.raises(WorkError, match=r"zero_stage\.json"):
        chosen(tmp_path)


def test_a_command_that_continues_takes_the_defaults_of_the_run(tmp_path: Path) -> None:
    given = {"output": str(tmp_path)}
    config(tmp_path, "engine: {kind: fsdp2, zero_stage: 3}")
    assert kept_defaults(given, "train") == {}  # before its first step
    write_text(tmp_path / "metrics.jsonl", json.dumps({"step": 1}) + "\n")
    assert kept_defaults(given, "train") == {**EARLIER, "kind": "fsdp2", "zero_stage": 3}
    assert kept_defaults(given, "train-autoencoder") == {}
    assert kept_defaults(given | {"overwrite": "true"}, "train") == {}
    assert kept_defaults({}, "train") == {}
