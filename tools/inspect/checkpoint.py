"""Show checkpoints for `inspect`: one of them with its tensors, or all that a run has.

Every file of a checkpoint is hashed each time; of a run's checkpoints with `action=verify`.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.checkpoint import format
from core.checkpoint.format import DamagedCheckpoint
from core.checkpoint.reader import CheckpointReader
from core.checkpoint.store import CheckpointStore
from core.errors import UserError, WorkError
from core.files import published
from core.progress import counted
from core.run.code import read
from core.run.folder import AVERAGES, CHECKPOINTS
from core.run.run_lock import RunLock
from tools.inspect.fitted_times import write_density
from tools.inspect.telling import refuse_dataset_fields, tell
from tools.runs.begun import describe_record
from tools.runs.initial import read_record

if TYPE_CHECKING:
    from tools.inspect.config import Config


def plan(config: Config) -> list[str]:
    """Say what `run` would do."""
    refuse_dataset_fields(config.action, config.sheet, "a checkpoint or a run")
    folder = Path(config.source)
    if _is_checkpoint(folder):
        return [f"hash every file of {folder}, and read its tensors"]
    fitted = [f"write a density of times to {config.times}"] if config.times else []
    return [f"{'hash' if config.action == 'verify' else 'list'} all checkpoints of {folder}", *fitted]


def run(config: Config) -> None:
    """Show what is at the source; WorkError if any of it is damaged."""
    refuse_dataset_fields(config.action, config.sheet, "a checkpoint or a run")
    folder = Path(config.source)
    if _is_checkpoint(folder):
        if config.times:
            raise UserError("times", config.times, "'' for a checkpoint; give its run")
        result, lines = _checkpoint(folder)
    else:
        result, lines = _run(folder, verify=config.action == "verify")
        if config.times:
            lines += ["", *write_density(folder, Path(config.times))]
    tell(result, lines, config.format, config.json)


def _is_checkpoint(folder: Path) -> bool:
    return format.step_of(folder) is not None or (folder / format.MANIFEST).is_file()


def _checkpoint(folder: Path) -> tuple[dict[str, Any], list[str]]:
    """Describe one checkpoint: counters, files, and the shape and norms of every tensor."""
    reader = CheckpointReader(folder)
    result = _summary(reader, verify=True)
    lines = [f"{folder}", *_head(result)]
    if result["damaged"]:
        return result, [*lines, *(entry["error"] for entry in result["damaged"])]
    described, table = _network(reader)
    result, lines = result | described, [*lines, *table]
    for name in filter(None, reader.networks):
        described, table = _network(CheckpointReader(folder, name))
        result.setdefault("networks", {})[name] = described
        lines += ["", f"network {name}, {described['numbers']:,} numbers:", *table]
    return result, [*lines, "", "every file is as it was written"]


def _network(reader: CheckpointReader) -> tuple[dict[str, Any], list[str]]:
    """Return every tensor of a network with its norms, and a table of them."""
    tensors, numbers = _tensors(reader), _numbers(reader)
    norms = {
        kind: math.hypot(*(t["norms"][kind] for t in tensors if kind in t["norms"])) for kind in reader.kinds
    }
    width = max((len(tensor["name"]) for tensor in tensors), default=4)
    lines = ["", "norm of each tensor, as the root of the sum of its squares, in every kind:"]
    lines += [f"{'tensor':{width}}  {'shape':>16}  " + "  ".join(f"{kind:>14}" for kind in reader.kinds)]
    for tensor in tensors:
        shape = "x".join(map(str, tensor["shape"])) or "1"
        columns = "  ".join(
            f"{tensor['norms'][kind]:14.6g}" if kind in tensor["norms"] else f"{'-':>14}"
            for kind in reader.kinds
        )
        lines.append(f"{tensor['name']:{width}}  {shape:>16}  {columns}")
    total = "  ".join(f"{norms[kind]:14.6g}" for kind in reader.kinds)
    lines.append(f"{'all':{width}}  {numbers:>16,}  {total}")
    described = {"kinds": reader.kinds, "numbers": numbers, "tensors": tensors, "norms": norms}
    return described, lines


def _numbers(reader: CheckpointReader) -> int:
    """Count the trainable numbers of the network."""
    return sum(math.prod(shape) for shape in reader.shapes.values())


def _run(folder: Path, *, verify: bool) -> tuple[dict[str, Any], list[str]]:
    """Describe all checkpoints of a run, and its copies of averages; newest first."""
    parts = _parts(folder) or {folder.name: folder}
    result: dict[str, Any] = {"files": 0, "damaged": []}
    lines = [str(folder)]
    if started_with := RunLock(folder).code():
        result["code"] = started_with.as_dict()
        lines.append(f"last started with {started_with}")
    if (record := read_record(folder)) is not None:
        result["initial"] = record
    lines += describe_record(folder)
    for name, part in parts.items():
        result[name] = []
        lines += ["", f"{name}: {'step':>8}  {'updates':>8}  {'ranks':>5}  {'MiB':>9}  folder"]
        for entry in CheckpointStore(part).complete():
            try:
                summary = _summary(CheckpointReader(entry.path), verify=verify)
            except WorkError as error:
                summary = {"files": 1, "damaged": [{"name": entry.path.name, "error": str(error)}]}
            result[name].append({"name": entry.path.name, **summary})
            result["files"] += summary["files"]
            result["damaged"] += summary["damaged"]
            lines.append(" " * (len(name) + 2) + _row(entry.path.name, summary))
        if not result[name]:
            lines.append("  none that is complete")
        made_with = dict.fromkeys(filter(None, map(_made_with, result[name])))
        lines += [f"  made with {' and, before that, '.join(made_with)}"] if made_with else []
        incomplete = [
            path.name for path in published(part, "step-*") if not (path / format.MANIFEST).exists()
        ]
        lines += [
            f"  {path}: incomplete, a save that was cut short; the run removes it" for path in incomplete
        ]
        lines += [f"  {path.name}: set aside as damaged" for path in published(part, "damaged-*")]
    lines += ["", *(entry["error"] for entry in result["damaged"])]
    if verify and not result["damaged"]:
        lines.append(f"all {result['files']} files are as they were written")
    return result, lines


def _parts(folder: Path) -> dict[str, Path]:
    """Return the folders of checkpoints in a run; of a folder of checkpoints itself, that one."""
    if any(format.step_of(path) is not None for path in published(folder, "step-*")):
        return {folder.name: folder}
    return {name: folder / name for name in (CHECKPOINTS, AVERAGES) if (folder / name).is_dir()}


def _row(name: str, summary: dict[str, Any]) -> str:
    if "step" not in summary:
        return f"{'':8}  {'':8}  {'':5}  {'':9}  {name}: DAMAGED"
    marks = ": DAMAGED" if summary["damaged"] else ""
    size = summary["bytes"] / 2**20
    return f"{summary['step']:8}  {summary['updates']:8}  {summary['ranks']:5}  {size:9.1f}  {name}{marks}"


def _head(result: dict[str, Any]) -> list[str]:
    size = result["bytes"] / 2**20
    if "step" not in result:
        return [f"{counted(result['files'], 'file')}, {size:.1f} MiB"]
    return [
        f"step {result['step']}, {result['updates']} updates, by {counted(result['ranks'], 'rank')}",
        f"{counted(result['files'], 'file')}, {size:.1f} MiB, {result['numbers']:,} numbers of each of "
        + ", ".join(result["kinds"]),
        *([f"made with {made_with}"] if (made_with := _made_with(result)) else []),
    ]


def _made_with(summary: dict[str, Any]) -> str:
    """Return the commit that a checkpoint was made with; "" where an earlier version did not record it."""
    return str(read(summary.get("code")) or "")


def _summary(reader: CheckpointReader, *, verify: bool) -> dict[str, Any]:
    """Return counters and sizes; every damaged file is named in `damaged` ([] if nothing was verified)."""
    damaged = []
    for name in reader.files if verify else [format.STATE]:
        try:
            reader.verify([name])
        except DamagedCheckpoint as error:
            damaged.append({"name": f"{reader.folder.name}/{name}", "error": str(error)})
    files = reader.manifest["files"]
    result = {
        "files": len(files),
        "bytes": sum(record["size"] for record in files.values()),
        "kinds": reader.kinds,
        "numbers": _numbers(reader),
        "damaged": damaged,
    }
    if any(entry["name"].endswith(format.STATE) for entry in damaged):
        return result
    state = reader.state()
    return {
        **result,
        **{name: state[name] for name in ("step", "updates", "code") if name in state},
        "ranks": reader.manifest["ranks"],
    }


def _tensors(reader: CheckpointReader) -> list[dict[str, Any]]:
    """Return name, shape and the Euclidean norm in every kind, of each trainable tensor."""
    import torch

    tensors = []
    for name, shape in reader.shapes.items():
        part = torch.empty(math.prod(shape))
        norms = {}
        for kind in [kind for kind in reader.kinds if name in reader.names(kind)]:
            reader.read(kind, name, 0, part.numel(), part)
            norms[kind] = float(part.double().norm())
        tensors.append({"name": name, "shape": list(shape), "norms": norms})
    return tensors
