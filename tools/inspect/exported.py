"""Show an export for `inspect`: which weights these are, every tensor, every file hashed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from core.checkpoint import exported, format
from core.checkpoint.format import DamagedCheckpoint
from core.checkpoint.sharded_file import SUFFIX
from core.checkpoint.tensor_file import open_tensors
from core.config.yaml_files import read_recorded, read_section
from core.errors import UserError, WorkError
from core.progress import counted
from core.reading.instead import instead
from core.run.folder import CONFIG, EXPORT, EXPORTED_WEIGHTS
from tools.inspect.telling import refuse_dataset_fields, tell

if TYPE_CHECKING:
    from tools.inspect.config import Config


def plan(config: Config) -> list[str]:
    """Say what `run` would do."""
    refuse_dataset_fields(config.action, config.sheet, "an export")
    return [f"hash every file of {_folder(Path(config.source))}, and read its tensors"]


def run(config: Config) -> None:
    """Show the export; WorkError if a file is damaged."""
    refuse_dataset_fields(config.action, config.sheet, "an export")
    folder = _folder(Path(config.source))
    record = exported.read_record(folder)
    result = {**record, "files": len(record["files"]), "damaged": _damaged(folder, record)}
    result["bytes"] = sum(file["size"] for file in record["files"].values())
    lines, to = [str(folder), *_head(result)], (config.format, config.json)
    if result["damaged"]:
        tell(result, [*lines, *(entry["error"] for entry in result["damaged"])], *to)
    result["config"] = read_recorded(folder / CONFIG)
    result["tensors"] = _tensors([folder / name for name in exported.weights_in(record)])
    lines += _network(read_section(folder / CONFIG, "model"), result["tensors"], result["trained"])
    tell(result, [*lines, "", *_table(result["tensors"]), "", "every file is as it was written"], *to)


def _folder(source: Path) -> Path:
    """Return the export's folder, of which the file with the weights may be named."""
    folder = source.parent if source.suffix == SUFFIX else source
    if not exported.is_export(folder):
        raise UserError("source", source, f"an export, with {EXPORTED_WEIGHTS}{instead(folder)}")
    return folder


def _damaged(folder: Path, record: dict[str, Any]) -> list[dict[str, str]]:
    found = []
    for name, file in record["files"].items():
        try:
            format.require_as_written(folder / name, file, EXPORT)
        except DamagedCheckpoint as error:
            found.append({"name": name, "error": str(error)})
    return found


def _head(result: dict[str, Any]) -> list[str]:
    average, error = result["average"], result.get("profile_error")
    if average is None:
        what = "raw weights"
    elif average.startswith("sigma"):
        what = f"average of relative length {average[len('sigma-') :]}"
    elif average[:1].isdigit():
        what = f"average with decay {average}"
    else:  # of weights that another project published
        what = f"average {average}, whose decay is not recorded"
    found = "" if error is None else f", found from {result['snapshots']} copies to {error:.1%}"
    return [
        f"export of the {what}, in {result['dtype']}{found}",
        f"step {result['step']}, {result['updates']} updates, of checkpoint {result['checkpoint']}",
        f"{counted(result['files'], 'file')}, {result['bytes'] / 2**20:.1f} MiB",
    ]


def _network(model: dict[str, Any], tensors: list[dict[str, Any]], trained: list[str]) -> list[str]:
    numbers = {tensor["name"]: tensor["numbers"] for tensor in tensors}
    settings = " ".join(f"{name}={json.dumps(value)}" for name, value in model.items() if value != "")
    if unknown := set(trained) - set(numbers):
        raise WorkError(f"{EXPORT} names {min(unknown)} as trained, and the weights have no such tensor")
    return [
        f"{sum(numbers.values()):,} numbers, {sum(numbers[name] for name in trained):,} of them trained",
        f"network: {settings}",
        f"all else of how it was trained: {CONFIG}",
    ]


def _tensors(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Return name, shape, type and Euclidean norm of each tensor."""
    tensors = []
    for path in paths:
        with open_tensors(path) as file:
            for name in file.keys():  # noqa: SIM118 (not a dict)
                tensor = file.get_tensor(name)
                facts = {"name": name, "shape": list(tensor.shape), "numbers": tensor.numel()}
                facts["dtype"] = str(tensor.dtype).removeprefix("torch.")
                tensors.append({**facts, "norm": float(torch.linalg.vector_norm(tensor.double()))})
    return sorted(tensors, key=lambda tensor: str(tensor["name"]))


def _table(tensors: list[dict[str, Any]]) -> list[str]:
    """Return a table of every tensor's shape and the root of the sum of its squares."""
    width = max((len(tensor["name"]) for tensor in tensors), default=4)
    lines = [f"{'tensor':{width}}  {'shape':>16}  {'type':>8}  {'norm':>14}"]
    for tensor in tensors:
        shape = "x".join(map(str, tensor["shape"])) or "1"
        lines.append(f"{tensor['name']:{width}}  {shape:>16}  {tensor['dtype']:>8}  {tensor['norm']:14.6g}")
    return lines
