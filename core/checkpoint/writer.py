"""Write one checkpoint: every rank its ranges in parallel, rank 0 the manifest when all receipts are in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from core.checkpoint import format
from core.checkpoint.format import FileRecord
from core.checkpoint.pace import Pace
from core.checkpoint.snapshot import Layout, Snapshot
from core.checkpoint.store import remove
from core.checkpoint.tensor_file import write_tensors
from core.distributed.outcomes import first_problem, gather_to_first
from core.distributed.ranks import Group
from core.engine.network import MAIN
from core.errors import WorkError
from core.faults.failpoints import failpoint
from core.files import fsync_folder, published, sealed, sha256_file, write_json


def write_checkpoint(
    folder: Path,
    snapshot: Snapshot,
    *,
    number: int,
    may_commit: Callable[[], None],
    group: Group = None,
    pace: Pace | None = None,
) -> None:
    """Write and publish `folder` (collective: all ranks).

    number: the attempt's, orders checkpoints of one step.
    may_commit: called by rank 0 just before the manifest; raises when the run has another owner now.
    group: the process group over which ranks exchange their outcomes; from a thread other than the main one
    it must be one that nothing else uses.
    pace: how fast this rank writes its tensors; None is as fast as the disk.
    If any rank fails, all raise WorkError with the first rank's reason, and nothing is published.
    """
    pace = pace or Pace(snapshot.bytes, 0.0, waited_for=True)
    receipt, problem = _attempt(lambda: _write_rank(folder, snapshot, pace))
    with pace.waiting_for_others():
        failed = first_problem(problem, group)
        receipts = [] if failed else gather_to_first(receipt, group)
    if not failed:
        published = ""
        if snapshot.rank == 0:
            _, published = _attempt(lambda: _publish(folder, snapshot, receipts, number, may_commit))
        with pace.waiting_for_others():
            failed = first_problem(published, group)
    if failed:
        if snapshot.rank == 0:
            with contextlib.suppress(OSError):  # what stays is debris, which a purge removes
                (folder / format.MANIFEST).unlink(missing_ok=True)
                remove(folder)
        name = f"{folder.parent.name}/{folder.name}"
        raise WorkError(f"{name} was not written: rank {failed[0]}: {failed[1]}")


def _write_rank(folder: Path, snapshot: Snapshot, pace: Pace) -> dict[str, FileRecord]:
    """Write this rank's files and receipt; return the receipt's content."""
    snapshot.arrived()
    rank = snapshot.rank
    (folder / format.tensors_name(rank)).parent.mkdir(parents=True, exist_ok=True)
    if rank == 0:  # a step done again, after a rollback
        (folder / format.MANIFEST).unlink(missing_ok=True)
    pace.moved()
    failpoint("save.begin")
    tensors = format.tensors_name(rank)
    files = {tensors: write_tensors(folder / tensors, snapshot.tensors, pace)}
    failpoint("save.tensors_written")
    if rank == 0:
        files[format.FIXED] = write_tensors(folder / format.FIXED, snapshot.fixed, pace)
        failpoint("save.state")
        write_json(folder / format.STATE, snapshot.state)
        files[format.STATE] = _record(folder / format.STATE)
    failpoint("save.receipt")
    receipt = {
        "step": snapshot.state["step"],
        "rank": rank,
        "ranks": snapshot.ranks,
        "files": {name: asdict(record) for name, record in files.items()},
    }
    write_json(folder / format.receipt_name(rank), receipt)
    files[format.receipt_name(rank)] = _record(folder / format.receipt_name(rank))
    failpoint("save.receipt_written")
    return files


def _publish(
    folder: Path,
    snapshot: Snapshot,
    receipts: list[dict[str, FileRecord]],
    number: int,
    may_commit: Callable[[], None],
) -> None:
    """Publish the checkpoint by its manifest, once everything is on disk (rank 0)."""
    files = {name: asdict(record) for receipt in receipts for name, record in receipt.items()}
    there = {path for part in {(folder / name).parent for name in files} for path in published(part)}
    if missing := [name for name in files if folder / name not in there]:
        raise WorkError(f"rank 0 cannot see {missing[0]}: do all ranks share {folder.parent}?")
    failpoint("save.commit")
    may_commit()
    manifest = {
        "format": format.VERSION,
        "step": snapshot.state["step"],
        "number": number,
        "ranks": snapshot.ranks,
        **_layouts(snapshot),
        "files": files,
    }
    write_json(folder / format.MANIFEST, sealed(manifest))
    fsync_folder(folder.parent)
    failpoint("save.committed")


def _layouts(snapshot: Snapshot) -> dict[str, Any]:
    """Return the layout of the main network; under `networks` those of the others, if there are any."""
    nothing = Layout([], {}, {}, {})  # stands for the main network in a copy of another one's averages
    described = {
        name: {
            "kinds": layout.kinds,
            "partial": layout.partial,
            "shapes": {name: list(shape) for name, shape in layout.shapes.items()},
            **_cuts(layout),
        }
        for name, layout in ({MAIN: nothing} | snapshot.layouts).items()
    }
    main = described.pop(MAIN)
    return {**main, "networks": described} if described else main


def _cuts(layout: Layout) -> dict[str, Any]:
    """Return how parameters are cut; of replicas by another name, which earlier versions do not misread."""
    if layout.replicas == 1:
        return {"cuts": {name: list(cut) for name, cut in layout.cuts.items()}}
    cuts = [[name, *cut] for name, cut in layout.cuts.items()]
    return {"replicated": {"replicas": layout.replicas, "cuts": cuts}}


def _record(path: Path) -> FileRecord:
    return FileRecord(path.stat().st_size, sha256_file(path))


def _attempt(work: Callable[[], Any]) -> tuple[Any, str]:
    """Return the result and '', or None and the failure: every rank must learn of it before any raises."""
    try:
        return work(), ""
    except (OSError, WorkError) as error:
        return None, f"{type(error).__name__}: {error}"
