"""Bring a run back: the newest whole checkpoint, into an engine of any stage on any number of ranks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from core.averages.ema import Ema
from core.checkpoint.format import DamagedCheckpoint
from core.checkpoint.reader import CheckpointReader
from core.checkpoint.snapshot import state_tensors
from core.checkpoint.store import CheckpointStore
from core.distributed import ranks
from core.engine.shards import present
from core.errors import UserError
from core.progress import say

if TYPE_CHECKING:  # DeepSpeed is imported only by those who train
    from core.engine.engine import Engine


def resume(store: CheckpointStore, engine: Engine, ema: Ema | None) -> dict[str, Any] | None:
    """Load the newest whole checkpoint and return its state, or None for a run that has none (collective).

    A damaged one is reported, set aside under `damaged-...`, and the one before it is taken: at most the
    steps between the two are done again. With none left, WorkError.
    """
    while True:
        path = ranks.on_first_rank(store.latest)
        if path is None:
            return None
        damage = _shared_verify(path, engine)
        if not damage:
            return load(path, engine, ema)
        if engine.world.rank == 0:
            target = store.quarantine(path)
            say(f"warning: checkpoint {path.name} is damaged: {damage}")
            say(f"warning: it was renamed {target.name}; falling back to the checkpoint before it")
        ranks.barrier()


def load(path: Path, engine: Engine, ema: Ema | None) -> dict[str, Any]:
    """Put a verified checkpoint into the engine and the averages; returns its state (collective)."""
    reader = CheckpointReader(path)
    targets = state_tensors(engine, ema)
    _compare(reader, engine, targets)
    with torch.no_grad():
        for kind, flats in targets.items():
            for shard in present(engine.shards, flats):
                part = torch.empty(shard.stop - shard.start)
                reader.read(kind, shard.name, shard.start, shard.stop, part)
                shard.view(flats).copy_(part)
    engine.set_fixed(reader.fixed())
    state = reader.state()
    engine.set_updates(state["updates"])
    engine.refresh()
    return state


def _shared_verify(path: Path, engine: Engine) -> str:
    """Hash the files, each rank a part of them; every rank learns the first problem ('' for none)."""
    problem = ""
    try:
        reader = CheckpointReader(path)
        reader.verify(reader.files[engine.world.rank :: engine.world.size])
    except DamagedCheckpoint as error:
        problem = str(error)
    return next(filter(None, ranks.gather_objects(problem)), "")


def _compare(reader: CheckpointReader, engine: Engine, targets: dict[str, list[Tensor]]) -> None:
    """UserError naming the first parameter or kind in which checkpoint and run differ."""
    wanted = engine.trainable_shapes()
    for name in sorted(set(wanted) | set(reader.shapes)):
        ours, theirs = wanted.get(name), reader.shapes.get(name)
        if ours != theirs:
            raise UserError(f"parameter {name} is {ours} in the network and {theirs} in {reader.folder}")
    missing = [kind for kind in targets if kind not in reader.kinds]
    if missing:
        raise UserError(f"{reader.folder} holds no {missing[0]}; it has {', '.join(reader.kinds)}")
    partial = engine.partial_moments()
    for kind in engine.optimizer.moments:
        if odd := set(partial.get(kind, wanted)) ^ set(reader.names(kind)):
            raise UserError(f"{reader.folder} holds {kind} of other parameters; one of them is {min(odd)}")
