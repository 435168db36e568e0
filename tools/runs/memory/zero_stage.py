"""Settle `engine.zero_stage=auto` before anything is built: by memory at first, then as recorded."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from core.distributed import ranks
from core.distributed.ranks import World
from core.engine.config import EngineConfig
from core.environment import ranks_on_node
from core.errors import UserError
from core.memory.choices import AUTO, Value, begun_with, chosen, configured, note
from core.memory.fitting import Fit, fit, least_stage
from core.memory.free import USABLE, Free
from core.progress import counted, say
from core.progress import size as in_bytes
from core.run.folder import CONFIG
from tools.runs.memory.run_memory import MemoryOfRun, free_of_ranks

FIELD = "zero_stage"

MemoryWith = Callable[[EngineConfig], MemoryOfRun]
"""Of an engine, what the run's memory is made of with it."""


class Settled(NamedTuple):
    """The engine with its stage, and the lines that say which and why; [] of one that is configured."""

    engine: EngineConfig
    lines: list[str]


def settle_zero_stage(
    engine: EngineConfig, memory_with: MemoryWith, world: World, run: Path, among: Sequence[int] = ()
) -> EngineConfig:
    """Return the engine with the stage that the run began with, else the least that fits (collective).

    Says which. The folder is claimed, and keeps what is chosen; checkpoints load at any stage, so another one
    may be asked for by its number, and counts for as long as it is.  among: the stages that the run can have,
    () for all of the engine's; UserError where none of fewer than these fits.
    """
    kept, lines = ranks.on_first_rank(lambda: _kept(engine, run, world.size))
    if kept is not None:
        found = Settled(replace(engine, zero_stage=kept), lines)
    else:
        free = free_of_ranks(world) if world.size > 1 else None
        found = _chosen(engine, memory_with, world, free, among or engine.stages)
        values: dict[str, Value] = {FIELD: found.engine.stage}
        if found.engine.shard_ranks != engine.shard_ranks:
            values["shard_ranks"] = found.engine.shard_ranks
        ranks.on_first_rank(lambda: note(run, world.size, values))
    for line in found.lines:
        say(line)
    return found.engine


def foreseen_zero_stage(
    engine: EngineConfig, memory_with: MemoryWith, world: World, run: Path, among: Sequence[int] = ()
) -> Settled:
    """Return what a run in this folder would take, for a dry run; `among` as above."""
    if engine.zero_stage != "auto" or (run / CONFIG).is_file():
        kept, lines = _kept(engine, run, world.size)
        if kept is not None:
            return Settled(replace(engine, zero_stage=kept), lines)
    free = free_of_ranks(world, peers=world.size) if world.size > 1 else None
    return _chosen(engine, memory_with, world, free, among or engine.stages)


def _kept(engine: EngineConfig, run: Path, size: int) -> tuple[int | None, list[str]]:
    """Return the stage that is asked for or recorded, None for neither, and what is to be said of it."""
    if engine.zero_stage != "auto":
        number, begun = engine.zero_stage, chosen(run).get(FIELD)
        if begun is None or begun["value"] == number:
            return number, []
        began = f"the run began with {begun['value']}: sums differ by rounding"
        return number, [f"engine: ZeRO stage {number}, as asked for, and {began}"]
    kept = begun_with(run, FIELD)
    if kept is None:
        return None, []
    stage, line = int(kept["value"]), f"engine: ZeRO stage {kept['value']}, with which the run was begun"
    if configured(run, FIELD) != AUTO:
        return stage, [line]
    since = "" if kept["ranks"] == size else f", chosen for {counted(kept['ranks'], 'rank')}"
    return stage, [f"{line}{since}; engine.zero_stage=NUMBER asks for another"]


def _chosen(
    engine: EngineConfig, memory_with: MemoryWith, world: World, free: Free | None, among: Sequence[int]
) -> Settled:
    """Choose by memory.  free: of the rank that has the least; None of one rank, which needs no choice."""
    if free is None:
        alone = replace(engine, zero_stage=among[0])
        return Settled(alone, [f"engine: ZeRO stage {alone.stage}, since one rank has nothing to share out"])
    usable = int(USABLE * free.bytes)
    shared, found = _fits(engine, memory_with, world, usable, among)
    stage = least_stage(world.size, found)
    takes = f"{in_bytes(found[stage].bytes)} of a rank, and {in_bytes(usable)} are planned with"
    if not found[stage].fits and len(among) < len(engine.stages):
        stages = ", ".join(map(str, among))
        expected = (
            f"a number, or more memory: of {stages}, which this objective goes with, stage {stage} takes "
        )
        raise UserError("engine.zero_stage", "auto", f"{expected}least, {takes}")
    fits = "the least that fits" if found[stage].fits else "which takes least, and does not fit"
    reason = f"{fits} ({takes}, {USABLE:.0%} of what is free in {free.of})"
    if shared.shard_ranks != engine.shard_ranks:
        reason += f"; {shared.shard_ranks} ranks share the state, since among those of a node it does not fit"
    return Settled(replace(shared, zero_stage=stage), [f"engine: ZeRO stage {stage}, {reason}"])


def _fits(
    engine: EngineConfig, memory_with: MemoryWith, world: World, usable: int, among: Sequence[int]
) -> tuple[EngineConfig, dict[int, Fit]]:
    """Return what each stage takes, with as few ranks to share the state as any of them fits with, and the
    engine that says with how many (collective).
    """
    memory = memory_with(replace(engine, zero_stage=among[0]))  # activations hardly differ by stage
    tables = ranks.on_first_rank(lambda: memory.measure(world.device, usable))
    pairs = [
        (planned.plan.share(number), table[number])
        for planned, table in zip(memory.planned, tables, strict=True)
        for number in planned.used
    ]
    shares, measured = [share for share, _ in pairs], [each for _, each in pairs]

    def takes(shared: EngineConfig, stage: int) -> Fit:
        at_stage = replace(memory, engine=replace(shared, zero_stage=stage))
        more = {**at_stage.objective(world), **at_stage.read_ahead(world)}
        state = at_stage.state(world)
        return fit(state, usable, shares, measured, micro_batch=engine.micro_batch, more=more)

    for shared in engine.by_copies(world.size, ranks_on_node(world.size)):
        found = {stage: takes(shared, stage) for stage in among}
        if any(each.fits for each in found.values()):
            break
    return shared, found
