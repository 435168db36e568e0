"""Choose the micro-batches of a run from measured memory, keep them, and say what memory it takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from core.distributed import ranks
from core.distributed.ranks import World
from core.memory.choices import AUTO, EARLIER, configured
from core.memory.chosen import Chosen
from core.memory.free import USABLE, Free
from core.memory.micro_batch import Measured, choose
from core.progress import counted, say
from core.progress import size as in_bytes
from core.run.folder import CONFIG
from tools.runs.memory.run_memory import MemoryOfRun, free_of_ranks


class Room(NamedTuple):
    """Bytes a rank may take beside the state of training, of how many free ones, and what has these.

    update: bytes that an update takes in the place of activations.
    """

    activations: int
    free: Free
    update: int


AUTOS = ("micro_batch", "zero_stage", "compile", "reduce_dtype")


def keep_numbers(config: Any, recorded: Mapping[str, Any]) -> Any:
    """Return the config to record of a continued run: `auto` stands for the number that is recorded."""
    section = recorded.get("engine", {})
    autos = [name for name in AUTOS if getattr(config.engine, name) == AUTO]
    kept = {name: section.get(name, EARLIER[name]) for name in autos}
    return replace(config, engine=replace(config.engine, **kept))


def settle_micro_batches(memory: MemoryOfRun, world: World, run: Path) -> None:
    """Limit the plans to the micro-batches that the run began with, else to those that fit (collective).

    Says memory by part and each shape's micro-batch. The folder is claimed, and keeps what is chosen.
    """
    parts = memory.parts(world)
    room = _room(parts, memory.update_excess(world), world)
    data_ranks = memory.planned[0].plan.ranks
    if memory.engine.micro_batch != "auto":
        _say_all(_memory_lines(parts, None, room))
        return
    number, kept, why = ranks.on_first_rank(lambda: _kept(memory, run, data_ranks))
    if number is not None:
        for planned in memory.planned if number else ():
            planned.plan.limit([number] * len(planned.shapes))
        what = f"{counted(number, 'sample')} at most" if number else "a rank's whole share of a group"
        say(f"micro-batches: {what}, with which the run was begun")
        _say_all(_memory_lines(parts, None, room))
        return
    measured = ranks.on_first_rank(lambda: memory.measure(world.device, room.activations))
    if why:
        say(f"micro-batches are chosen again: {why}; order and draws stay, sums differ by rounding")
    fitting = _fitting(memory, measured, room)
    if kept is None:
        kept = fitting
        chosen = Chosen(data_ranks, _named(memory, kept))
        ranks.on_first_rank(lambda: chosen.write(run))
    for planned, sizes in zip(memory.planned, kept, strict=True):
        planned.plan.limit(sizes)
    _say_all(_memory_lines(parts, _largest(memory, measured), room))
    _say_all(_excess(memory, measured, room, fitting))


def foreseen(memory: MemoryOfRun, world: World, run: Path) -> list[str]:
    """Limit the plans as a run in this folder would, for a dry run; return the lines that say so."""
    parts = memory.parts(world)
    room = _room(parts, memory.update_excess(world), world, peers=world.size)
    if memory.engine.micro_batch != "auto":
        return _memory_lines(parts, None, room)
    number, kept, _ = _kept(memory, run, memory.planned[0].plan.ranks) if _has_record(run) else NO_RECORD
    if number is not None:
        kept = [[number or p.plan.share(n) for n in range(len(p.shapes))] for p in memory.planned]
    measured = memory.measure(world.device, room.activations)
    fitting = _fitting(memory, measured, room)
    for planned, sizes in zip(memory.planned, kept or fitting, strict=True):
        planned.plan.limit(sizes)
    lines = _memory_lines(parts, _largest(memory, measured), room)
    return [*lines, *_excess(memory, measured, room, fitting)]


Record = tuple[int | None, list[list[int]] | None, str]
"""A number for all shapes, or sizes of each plan, or neither; and why what is kept cannot be taken."""

NO_RECORD: Record = (None, None, "")


def _has_record(run: Path) -> bool:
    return (run / CONFIG).is_file()


def _kept(memory: MemoryOfRun, run: Path, data_ranks: int) -> Record:
    number = configured(run, "micro_batch")
    if number != AUTO:
        return int(number), None, ""
    found = Chosen.read(run)
    if found is None:
        return NO_RECORD
    why = found.reason_to_choose_anew(data_ranks, {p.name: p.names for p in memory.planned})
    if why:
        return None, None, why
    return None, [[size for _, size in found.sizes[p.name]] for p in memory.planned], ""


def _named(memory: MemoryOfRun, sizes: Sequence[Sequence[int]]) -> dict[str, list[tuple[str, int]]]:
    pairs = zip(memory.planned, sizes, strict=True)
    return {planned.name: list(zip(planned.names, chosen, strict=True)) for planned, chosen in pairs}


def _room(parts: Mapping[str, int], update: int, world: World, peers: int = 0) -> Room:
    """Return the room of the rank that has the least (collective, unless `peers` ranks share it)."""
    found = free_of_ranks(world, peers)
    return Room(int(USABLE * found.bytes) - sum(parts.values()), found, update)


def _fitting(memory: MemoryOfRun, measured: Sequence[Sequence[Measured]], room: Room) -> list[list[int]]:
    return [
        [choose(planned.plan.share(n), found, room.activations) for n, found in enumerate(table)]
        for planned, table in zip(memory.planned, measured, strict=True)
    ]


def _largest(memory: MemoryOfRun, measured: Sequence[Sequence[Measured]]) -> list[tuple[int, str]]:
    """Bytes of a micro-batch of each shape that is trained on, and the words that say what it is."""
    planned, table = memory.planned[0], measured[0]
    sizes = planned.sizes()
    return [
        (table[n].bytes(sizes[n]), f"{counted(sizes[n], 'sample')} of {planned.plan.buckets[n]}")
        for n in planned.used
    ]


def _memory_lines(
    parts: Mapping[str, int], activations: Sequence[tuple[int, str]] | None, room: Room
) -> list[str]:
    largest = max(activations, default=(0, "")) if activations else (0, "")
    total = sum(parts.values()) + max(largest[0], room.update)
    shown = ", ".join(f"{name} {in_bytes(size)}" for name, size in parts.items())
    free = f"{in_bytes(room.free.bytes)} are free for it in {room.free.of}"
    if not activations:
        return [f"memory of a rank: {in_bytes(total)} ({shown}) and activations, not measured; {free}"]
    then = f", in whose place an update takes {in_bytes(room.update)}" if room.update > largest[0] else ""
    return [
        f"memory of a rank: {in_bytes(total)} ({shown}, activations {in_bytes(largest[0])}{then}); {free}, "
        f"of which {USABLE:.0%} are planned with",
        *(f"micro-batch: {what}, {in_bytes(size)} of activations" for size, what in activations),
    ]


def _excess(
    memory: MemoryOfRun,
    measured: Sequence[Sequence[Measured]],
    room: Room,
    fitting: Sequence[Sequence[int]],
) -> list[str]:
    """Return a warning for each shape whose micro-batch takes more than there is, and what is done then."""
    lines = []
    if room.update > room.activations:
        lines.append(
            f"warning: an update takes {in_bytes(room.update)} beside the state of training, and "
            f"{in_bytes(max(0, room.activations))} are to be had; the run may run out of memory in it"
        )
    for planned, table, fits in zip(memory.planned, measured, fitting, strict=True):
        for number in planned.used:
            size = planned.sizes()[number]
            need = table[number].bytes(size)
            if need <= room.activations:
                continue
            what = f"warning: {counted(size, 'sample')} of {planned.plan.buckets[number]} at once"
            has = f"{what} take {in_bytes(need)}, and {in_bytes(max(0, room.activations))} are to be had"
            if size > fits[number]:
                lines.append(
                    f"{has}; the run keeps them, since its bits depend on them: "
                    f"engine.micro_batch={fits[number]} goes on with less"
                )
            else:
                lines.append(f"{has}; the run begins all the same, and may run out of memory")
    return lines


def _say_all(lines: Sequence[str]) -> None:
    for line in lines:
        say(line)
