"""Restore a run from its newest whole checkpoint, into engines of any stage on any number of ranks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from core.checkpoint import format
from core.checkpoint.format import DamagedCheckpoint
from core.checkpoint.reader import CheckpointReader
from core.checkpoint.snapshot import state_tensors
from core.checkpoint.store import CheckpointStore
from core.distributed import ranks
from core.distributed.outcomes import first_problem
from core.distributed.ranks import World
from core.engine.network import MAIN, Network, Networks
from core.engine.shards import present
from core.errors import UserError
from core.progress import say


def resume(store: CheckpointStore, networks: Networks) -> dict[str, Any] | None:
    """Load the newest whole checkpoint and return its state, or None for a run that has none (collective).

    A damaged one is reported, set aside under `damaged-...`, and the one before it is taken: at most the
    steps between the two are done again. With none left, WorkError.
    """
    world = networks[MAIN].engine.world
    while True:
        path = ranks.on_first_rank(store.latest)
        if path is None:
            return None
        damage = _shared_verify(path, world)
        if not damage:
            return load(path, networks)
        if world.rank == 0:
            target = store.quarantine(path)
            say(f"warning: checkpoint {path.name} is damaged: {damage}")
            say(f"warning: it was renamed {target.name}; falling back to the checkpoint before it")
        ranks.barrier()


def load(path: Path, networks: Networks) -> dict[str, Any]:
    """Load a verified checkpoint into the engines and their averages; return its state (collective).

    UserError where the run's networks are not those of the checkpoint.
    """
    held = CheckpointReader(path).networks
    if set(held) != set(networks):
        ours, theirs = (", ".join(map(repr, sorted(names))) for names in (networks, held))
        raise UserError(f"this run trains the networks {ours} and {path} holds {theirs}")
    readers = {name: CheckpointReader(path, name) for name in networks}
    for name, reader in readers.items():
        _compare(reader, networks[name])
    for name, reader in readers.items():
        _load(reader, networks[name])
    return readers[MAIN].state()


def _load(reader: CheckpointReader, network: Network) -> None:
    engine = network.engine
    with torch.no_grad():
        for kind, tensors in state_tensors(network).items():
            for shard in present(engine.shards, tensors):
                part = torch.empty(shard.stop - shard.start)
                reader.read(kind, shard.name, shard.start, shard.stop, part)
                shard.view(tensors).copy_(part)
    engine.set_fixed(reader.fixed())
    engine.set_updates(reader.state()["updates"])
    engine.refresh()


def _shared_verify(path: Path, world: World) -> str:
    """Hash the files, each rank a part of them; return the first problem on every rank ('' for none).

    On as many ranks as wrote them each hashes what it wrote, which it reads next.
    """
    problem = ""
    try:
        reader = CheckpointReader(path)
        owners = {name: format.rank_of(name) for name in reader.files}
        shared = {name: number for number, name in enumerate(n for n, rank in owners.items() if rank is None)}
        hashed_by = {name: shared[name] if rank is None else rank for name, rank in owners.items()}
        reader.verify(name for name in reader.files if hashed_by[name] % world.size == world.rank)
    except DamagedCheckpoint as error:
        problem = str(error)
    found = first_problem(problem)
    return found[1] if found else ""


def _compare(reader: CheckpointReader, network: Network) -> None:
    """Raise UserError naming the first parameter or kind in which checkpoint and run differ."""
    engine = network.engine
    wanted = engine.trainable_shapes()
    for name in sorted(set(wanted) | set(reader.shapes)):
        ours, theirs = wanted.get(name), reader.shapes.get(name)
        if ours != theirs:
            shown = format.of_network(reader.network, name)
            raise UserError(f"parameter {shown} is {ours} in the network and {theirs} in {reader.folder}")
    missing = [kind for kind in state_tensors(network) if kind not in reader.kinds]
    if missing:
        shown = format.of_network(reader.network, missing[0])
        raise UserError(f"{reader.folder} holds no {shown}; it has {', '.join(reader.kinds)}")
    partial = engine.partial_moments()
    for kind in engine.optimizer.moments:
        if odd := set(partial.get(kind, wanted)) ^ set(reader.names(kind)):
            raise UserError(f"{reader.folder} holds {kind} of other parameters; one of them is {min(odd)}")
