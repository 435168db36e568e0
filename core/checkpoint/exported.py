"""An export: one set of whole weights as a plain safetensors file, in place of a run's checkpoints.

`model.safetensors` holds the weights, and `export.json` beside it says what they are. Like a checkpoint's
manifest it lists all files of the folder with size and SHA-256, and has a SHA-256 of itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from torch import Tensor

from core.checkpoint.format import DamagedCheckpoint, FileEntry, FileRecord, require_as_written
from core.checkpoint.tensor_file import load_tensors, write_tensors
from core.errors import WorkError
from core.files import published_below, sealed, sha256_file, write_json
from core.reading import json_files
from core.reading.json_files import Malformed
from core.reading.json_scalars import BelowName, Count
from core.run.folder import EXPORT, EXPORTED_WEIGHTS

VERSION = 2  # version 1 listed the weights alone


class _Record(TypedDict):
    """The content of `export.json`.  average: its name, None for raw weights.  trained: parameters."""

    checkpoint: str
    weights: str
    average: str | None
    dtype: str
    step: Count
    updates: Count
    trained: list[str]
    snapshots: NotRequired[Count | None]
    profile_error: NotRequired[float | None]
    files: dict[BelowName, FileEntry]


def is_export(folder: Path) -> bool:
    """Return whether `path` is the folder of an export."""
    return (folder / EXPORTED_WEIGHTS).is_file() or (folder / EXPORT).is_file()


def finish(folder: Path, state: Mapping[str, Tensor], record: Mapping[str, Any]) -> dict[str, Any]:
    """Write the weights beside what lies in `folder` already, then `export.json`; return its content.

    record: plain JSON values that say what the weights are.
    """
    others = published_below(folder)
    files = {str(p.relative_to(folder)): FileRecord(p.stat().st_size, sha256_file(p)) for p in others}
    files[EXPORTED_WEIGHTS] = write_tensors(folder / EXPORTED_WEIGHTS, state)
    listed = {name: asdict(file) for name, file in files.items()}
    content = sealed({"format": VERSION, **record, "files": listed})
    write_json(folder / EXPORT, content)
    return content


def read_record(folder: Path) -> dict[str, Any]:
    """Return the content of `export.json`; DamagedCheckpoint if missing or altered, WorkError if too old."""
    path = folder / EXPORT
    try:
        record = json_files.read(path, dict[str, Any])
    except FileNotFoundError:
        raise DamagedCheckpoint(f"{path} is missing, so nobody can say what {EXPORTED_WEIGHTS} is") from None
    except (OSError, Malformed) as error:
        raise DamagedCheckpoint(f"{path} cannot be read ({error})") from None
    if (version := record.get("format", 1)) != VERSION:
        raise WorkError(f"{path} has format {version}; this version reads {VERSION}: export the run again")
    if record != sealed(record):
        raise DamagedCheckpoint(f"{path} differs from its own SHA-256")
    try:
        json_files.checked(record, _Record, path)
    except Malformed as error:
        raise DamagedCheckpoint(str(error)) from None
    if EXPORTED_WEIGHTS not in record["files"]:
        raise DamagedCheckpoint(f"{path} does not list {EXPORTED_WEIGHTS}")
    return record


def load(folder: Path) -> dict[str, Tensor]:
    """Return the weights of an export, once they match its record."""
    require_as_written(folder / EXPORTED_WEIGHTS, read_record(folder)["files"][EXPORTED_WEIGHTS], EXPORT)
    return load_tensors(folder / EXPORTED_WEIGHTS)
