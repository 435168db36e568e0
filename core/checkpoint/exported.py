"""An export: one set of whole weights as a plain safetensors file, in place of a run's checkpoints.

`model.safetensors` is the file, and `export.json` beside it says what these weights are. Like a checkpoint's
manifest it lists all files of the folder with size and SHA-256, and has a SHA-256 of itself.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from core.checkpoint.format import DamagedCheckpoint, FileRecord, require_as_written, sealed
from core.checkpoint.tensor_file import write_tensors
from core.errors import WorkError
from core.files import published_below, sha256_file, write_json
from core.run.folder import EXPORT, EXPORTED_WEIGHTS

VERSION = 2  # 1 listed the weights alone


def is_export(folder: Path) -> bool:
    """Whether this is the folder of an export."""
    return (folder / EXPORTED_WEIGHTS).is_file() or (folder / EXPORT).is_file()


def finish(folder: Path, state: Mapping[str, Tensor], record: Mapping[str, Any]) -> dict[str, Any]:
    """Write the weights beside what lies in `folder` already, then `export.json`; returns its content.

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
    """What `export.json` says; DamagedCheckpoint if it is missing or altered, WorkError if it is too old."""
    path = folder / EXPORT
    try:
        record: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        version = record.get("format", 1)
    except FileNotFoundError:
        raise DamagedCheckpoint(f"{path} is missing, so nobody can say what {EXPORTED_WEIGHTS} is") from None
    except (OSError, ValueError, AttributeError) as error:
        raise DamagedCheckpoint(f"{path} cannot be read ({type(error).__name__}: {error})") from None
    if version != VERSION:
        raise WorkError(f"{path} has format {version}; this version reads {VERSION}: export the run again")
    if record != sealed(record):
        raise DamagedCheckpoint(f"{path} differs from its own SHA-256")
    return record


def load(folder: Path) -> dict[str, Tensor]:
    """The weights of an export, if they are those that its record tells of."""
    require_as_written(folder / EXPORTED_WEIGHTS, read_record(folder)["files"][EXPORTED_WEIGHTS], EXPORT)
    try:
        return load_file(folder / EXPORTED_WEIGHTS)
    except SafetensorError as error:
        raise DamagedCheckpoint(f"{folder / EXPORTED_WEIGHTS} cannot be read: {error}") from None
