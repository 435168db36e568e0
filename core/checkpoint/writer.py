"""Write one checkpoint: every rank its ranges in parallel, rank 0 the manifest when all receipts are in."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from core import distributed
from core.checkpoint import format
from core.checkpoint.format import FileRecord
from core.checkpoint.tensor_file import write_tensors
from core.ema import Ema
from core.errors import WorkError
from core.failpoints import failpoint
from core.files import fsync_folder, sha256_file, write_json

if TYPE_CHECKING:  # DeepSpeed is imported only by those who train
    from core.engine import Engine


def state_tensors(engine: Engine, ema: Ema | None) -> dict[str, list[Tensor]]:
    """All that is sharded, by kind; each a list of tensors laid out like `engine.flats`."""
    averages = {format.ema_kind(name): flats for name, flats in ema.averages.items()} if ema else {}
    return {format.WEIGHT: engine.flats, **engine.moments(), **averages}


def snapshot(engine: Engine, ema: Ema | None) -> dict[str, Tensor]:
    """The ranges this rank is to write, on the CPU: views where they live there already, copies elsewhere."""
    return {
        format.key(kind, shard.name, shard.start): shard.view(flats).cpu()
        for kind, flats in state_tensors(engine, ema).items()
        for shard in engine.owned
    }


def write_checkpoint(
    folder: Path,
    engine: Engine,
    ema: Ema | None,
    state: dict[str, Any],
    *,
    number: int,
    may_commit: Callable[[], None],
) -> None:
    """Write and publish `folder` (collective: all ranks).

    state: what goes into state.json.  number: the attempt's, orders checkpoints of one step.
    may_commit: called by rank 0 just before the manifest; raises when the run has another owner now.
    If any rank fails, all raise WorkError with the first rank's reason, and nothing is published.
    """
    fixed = engine.fixed()
    receipt, problem = _attempt(lambda: _write_rank(folder, engine, ema, fixed, state))
    answers = distributed.gather_objects((receipt, problem))
    failed = [(rank, text) for rank, (_, text) in enumerate(answers) if text]
    if not failed:
        published = None
        if engine.world.rank == 0:
            receipts = [files for files, _ in answers]
            published = _attempt(lambda: _publish(folder, engine, ema, receipts, state, number, may_commit))[
                1
            ]
        problem = distributed.broadcast_object(published)
        failed = [(0, problem)] if problem else []
    if failed:
        if engine.world.rank == 0:
            shutil.rmtree(folder, ignore_errors=True)
        raise WorkError(f"checkpoint {folder.name} was not written: rank {failed[0][0]}: {failed[0][1]}")


def _write_rank(
    folder: Path, engine: Engine, ema: Ema | None, fixed: dict[str, Tensor], state: dict[str, Any]
) -> dict[str, FileRecord]:
    """Write this rank's files and receipt; returns what the receipt says."""
    rank = engine.world.rank
    folder.mkdir(parents=True, exist_ok=True)
    failpoint("save.begin")
    files = {
        format.tensors_name(rank): write_tensors(folder / format.tensors_name(rank), snapshot(engine, ema))
    }
    failpoint("save.tensors_written")
    if rank == 0:
        files[format.FIXED] = write_tensors(folder / format.FIXED, fixed)
        write_json(folder / format.STATE, state)
        files[format.STATE] = _record(folder / format.STATE)
    failpoint("save.receipt")
    receipt = {
        "step": state["step"],
        "rank": rank,
        "ranks": engine.world.size,
        "files": {name: asdict(record) for name, record in files.items()},
    }
    write_json(folder / format.receipt_name(rank), receipt)
    files[format.receipt_name(rank)] = _record(folder / format.receipt_name(rank))
    failpoint("save.receipt_written")
    return files


def _publish(
    folder: Path,
    engine: Engine,
    ema: Ema | None,
    receipts: list[dict[str, FileRecord]],
    state: dict[str, Any],
    number: int,
    may_commit: Callable[[], None],
) -> None:
    """Rank 0: everything is on disk; the manifest makes it a checkpoint."""
    files = {name: asdict(record) for receipt in receipts for name, record in receipt.items()}
    missing = [name for name in files if not (folder / name).exists()]
    if missing:
        raise WorkError(f"rank 0 cannot see {missing[0]}: do all ranks share {folder.parent}?")
    failpoint("save.commit")
    may_commit()
    manifest = {
        "format": format.VERSION,
        "step": state["step"],
        "number": number,
        "ranks": engine.world.size,
        "kinds": list(state_tensors(engine, ema)),
        "shapes": {name: list(shape) for name, shape in engine.trainable_shapes().items()},
        "files": files,
    }
    write_json(folder / format.MANIFEST, manifest)
    fsync_folder(folder.parent)
    failpoint("save.committed")


def _record(path: Path) -> FileRecord:
    return FileRecord(path.stat().st_size, sha256_file(path))


def _attempt(work: Callable[[], Any]) -> tuple[Any, str]:
    """The result and '', or None and the failure: every rank must learn of it before any raises."""
    try:
        return work(), ""
    except (OSError, WorkError) as error:
        return None, f"{type(error).__name__}: {error}"
