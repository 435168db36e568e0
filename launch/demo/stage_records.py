"""What a demo records of its stages in `stages.json`, after each and when one fails."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from core.files import write_json
from core.progress import counted, duration
from core.reading import json_files
from core.run.ways_out import holds

STAGES = "stages.json"


class StageRecord(TypedDict):
    """A stage that ran or runs.

    identity: what it was made by, "" until it has finished.  inputs, outcome: hashes of files; earlier
    versions noted none.  error: what ended it; absent where nothing did.
    """

    name: str
    commands: list[str]
    identity: NotRequired[str]
    seconds: float
    inputs: NotRequired[list[str]]
    outcome: NotRequired[list[str]]
    error: NotRequired[str]


class Stages(TypedDict):
    """The content of `stages.json`.

    digits: whether the input is the built-in one.  planned: names of all stages in order; earlier versions
    noted none.
    """

    digits: bool
    planned: NotRequired[list[str]]
    stages: list[StageRecord]


@dataclass
class Record:
    """The record of the stages that ran; `save` publishes it after each."""

    path: Path
    header: dict[str, Any]
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)

    def save(self) -> None:
        write_json(self.path, {**self.header, "stages": list(self.stages.values())})


def read_stages(folder: Path) -> Stages:
    """Read what a demo recorded of its stages; WorkError if that is damaged."""
    return json_files.read(folder / STAGES, Stages)


def read_record(output: Path, *, digits: bool) -> Record:
    """Read what an earlier run of this demo recorded of its stages; nothing where there was none."""
    path = output / STAGES
    stages = read_stages(output)["stages"] if path.is_file() else []
    return Record(path, {"digits": digits}, {stage["name"]: dict(stage) for stage in stages})


def stages_made(output: Path) -> str:
    """Say what overwriting the demo would cost: its stages and their time."""
    stages = read_record(output, digits=False).stages
    seconds = sum(stage["seconds"] for stage in stages.values())
    return f"{counted(len(stages), 'stage')}, {duration(seconds)} of work" if stages else holds(output)
