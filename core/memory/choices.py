"""Record what the `auto`s and defaults of a run stand for at its first start, and keep it when it continues.

`config.yaml` holds what was asked for, `choices.json` what became of it. A run that continues takes, of a
field that the command leaves at `auto`, first what `config.yaml` has in its place, then what was chosen: bits
depend on it, and another version of this project, or another machine, might choose otherwise. A value that
the command names is a change that was asked for, and counts for as long as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from core.config.yaml_files import read_recorded
from core.errors import WorkError
from core.files import write_json
from core.reading import json_files
from core.run.claim import has_begun, job_of
from core.run.folder import CHOICES, CONFIG, FINISHED, ZERO_STAGE

Value = bool | int | str
AUTO = "auto"

# What records of earlier versions without these fields stand for.
EARLIER: Mapping[str, Value] = {
    "micro_batch": 0,  # a rank's whole share of a group
    "zero_stage": 1,
    "kind": "deepspeed",
    "shard_ranks": 0,
    "reduce": "each",
    "compile": False,
    "reduce_dtype": "bf16",
    "kernels": "torch",
}


class Kept(TypedDict):
    """A setting that a run keeps.

    value: what it began with.  ranks: how many it was chosen for; 0 where it was asked for.
    """

    value: Value
    ranks: int


class _EarlierStage(TypedDict):
    ranks: int
    zero_stage: int


def begun_with(run: Path, field: str) -> Kept | None:
    """Return what stands for `auto` of an engine's field in this run; None where nothing was chosen yet.

    The folder is claimed. WorkError where the record cannot be understood, since another choice would change
    the run's bits.
    """
    asked, unsettled = configured(run, field), 0 if field == "shard_ranks" else AUTO
    return chosen(run).get(field) if asked == unsettled else Kept(value=asked, ranks=0)


def configured(run: Path, field: str) -> Value:
    """Return an engine's field as the run's `config.yaml` has it."""
    return read_recorded(run / CONFIG).get("engine", {}).get(field, EARLIER[field])


def chosen(run: Path) -> dict[str, Kept]:
    """Return the record of choices, by field of the engine; {} where nothing was chosen yet."""
    found: dict[str, Kept] = {}
    if (earlier := run / ZERO_STAGE).exists():
        stage = json_files.read(earlier, _EarlierStage)
        found["zero_stage"] = _checked(
            earlier, "zero_stage", Kept(value=stage["zero_stage"], ranks=stage["ranks"])
        )
    if (path := run / CHOICES).exists():
        read = json_files.read(path, dict[str, Kept])
        found |= {field: _checked(path, field, kept) for field, kept in read.items()}
    return found


def _checked(path: Path, field: str, kept: Kept) -> Kept:
    known = {"zero_stage": (0, 1, 2, 3), "compile": (True, False)}.get(field, (kept["value"],))
    if (
        kept["ranks"] < 1
        or kept["value"] not in known
        or isinstance(kept["value"], bool) != isinstance(known[0], bool)
    ):
        shown = f"{field} {kept['value']} of {kept['ranks']} ranks"
        raise WorkError(f"{path}: no choice of {shown}; remove the file to choose again")
    return kept


def note(run: Path, ranks: int, values: Mapping[str, Value]) -> None:
    """Record what was chosen for so many ranks; what is recorded already stays."""
    found = chosen(run)
    merged = {name: Kept(value=value, ranks=ranks) for name, value in values.items()} | found
    if merged != found:
        write_json(run / CHOICES, merged)


def kept_defaults(given: Mapping[str, Any], job: str) -> dict[str, Any]:
    """Return the engine's defaults of a command that continues a run: what the run was begun with.

    given: the fields that the command names, nested.  job: its name. Nothing where the command begins anew.
    """
    output, overwrites = given.get("output"), str(given.get("overwrite", False)).lower()
    run = Path(str(output)).expanduser() if output else None
    if run is None or overwrites != "false" or job_of(run) != job or not has_begun(run, FINISHED):
        return {}
    recorded = read_recorded(run / CONFIG).get("engine", {})
    return {name: recorded.get(name, value) for name, value in EARLIER.items()}
