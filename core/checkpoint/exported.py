"""An export: one set of whole weights as plain safetensors files, in place of a run's checkpoints.

`model.safetensors` holds the weights, or several files with an index (`sharded_file`), and `export.json`
beside them says what they are. Like a checkpoint's manifest it lists all files of the folder with size and
SHA-256, and has a SHA-256 of itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from torch import Tensor

from core.checkpoint.format import DamagedCheckpoint, FileEntry, FileRecord, require_as_written
from core.checkpoint.sharded_file import LARGEST, SUFFIX, is_shard, load_all, write_sharded
from core.checkpoint.tensor_file import Entry, entries_in, entries_of, open_tensors
from core.errors import WorkError
from core.files import published_below, sealed, sha256_file, write_json
from core.reading import json_files
from core.reading.json_files import Malformed
from core.reading.json_scalars import BelowName, Count
from core.run.folder import EXPORT, EXPORTED_WEIGHTS

VERSION = 2  # version 1 listed the weights alone
STEM = EXPORTED_WEIGHTS.removesuffix(SUFFIX)


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


def finish(
    folder: Path,
    weights: Mapping[str, Tensor] | Sequence[Entry],
    record: Mapping[str, Any],
    largest: int = LARGEST,
) -> dict[str, Any]:
    """Write the weights beside what lies in `folder` already, then `export.json`; return its content.

    record: plain JSON values that say what the weights are.  largest: bytes of tensors in a file.
    """
    others = published_below(folder)
    files = {str(p.relative_to(folder)): FileRecord(p.stat().st_size, sha256_file(p)) for p in others}
    entries = entries_of(weights) if isinstance(weights, Mapping) else weights
    files |= write_sharded(folder, STEM, entries, largest)
    listed = {name: asdict(file) for name, file in files.items()}
    content = sealed({"format": VERSION, **record, "files": listed})
    write_json(folder / EXPORT, content)
    return content


def weights_in(record: Mapping[str, Any]) -> list[str]:
    """Return the names of the files with the weights, in order."""
    return sorted(name for name in record["files"] if name == EXPORTED_WEIGHTS or is_shard(name, STEM))


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
    if not weights_in(record):
        raise DamagedCheckpoint(f"{path} does not list {EXPORTED_WEIGHTS}")
    return record


def load(folder: Path) -> dict[str, Tensor]:
    """Return the weights of an export, once they match its record."""
    return load_all(files_of(folder))


def entries(folder: Path) -> list[Entry]:
    """Return the weights of an export to be read one after the other, once they match its record."""
    found = list[Entry]()
    for path in files_of(folder):
        keys = open_tensors(path).keys()
        found += entries_in(path, {key: key for key in keys})
    return found


def files_of(folder: Path, *, is_verified: bool = False) -> list[Path]:
    """Return the files with the weights, once they match the record.

    is_verified: whether another rank has seen that they do.
    """
    record = read_record(folder)
    found = weights_in(record)
    for name in found if not is_verified else ():
        require_as_written(folder / name, record["files"][name], EXPORT)
    return [folder / name for name in found]
