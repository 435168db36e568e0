"""Settle the other `auto`s and defaults of an engine, once its ZeRO stage is known, and record all."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from core import environment
from core.distributed import ranks
from core.distributed.ranks import World
from core.engine.compiling import lacks_compiler
from core.engine.config import EngineConfig
from core.errors import UserError
from core.memory.choices import Kept, Value, begun_with, chosen, note
from core.progress import counted, say

RECORDED = ("kind", "zero_stage", "shard_ranks", "reduce", "reduce_dtype", "precision", "matmul", "kernels")
CHANGED = ("kind", "reduce", "kernels")  # by a command that names them alone
ROUNDING = "sums differ by rounding"


def settle_engine(engine: EngineConfig, world: World, run: Path, *, uncompiled: str = "") -> EngineConfig:
    """Return the engine without an `auto`, and record in the run's folder what it is (collective).

    uncompiled: why this run's network cannot be compiled; '' where it can. The folder is claimed.
    """
    engine = _settle_compile(engine, world, run, uncompiled)
    _require_compiled(engine, world, run, uncompiled)
    engine = _settle_shards(engine, world, run)
    engine = _settle_reduction(engine, world, run)
    values: dict[str, Value] = {name: getattr(engine, name) for name in RECORDED}
    _tell_changes(values, ranks.on_first_rank(lambda: chosen(run)))
    values["compile"] = engine.compile
    ranks.on_first_rank(lambda: note(run, world.size, values))
    return engine


def _tell_changes(values: Mapping[str, Value], kept: Mapping[str, Kept]) -> None:
    """Say which settings of CHANGED are others than the run began with; the rest have words of their own."""
    for name in CHANGED:
        if name in kept and kept[name]["value"] != values[name]:
            began = f"the run began with {kept[name]['value']}: {ROUNDING}"
            say(f"engine: {name}={values[name]}, as asked for, and {began}")


def alone(engine: EngineConfig, device_type: str) -> EngineConfig:
    """Return the engine without an `auto` as one rank that keeps no record would take it."""
    compiles = device_type == "cuda" and not lacks_compiler(device_type)
    stage = engine.stages[0] if engine.zero_stage == "auto" else engine.zero_stage
    return replace(engine, zero_stage=stage, compile=compiles if engine.compile == "auto" else engine.compile)


def _settle_compile(engine: EngineConfig, world: World, run: Path, uncompiled: str) -> EngineConfig:
    by_hand = "engine.kernels=triton stands in its place" if engine.kernels == "triton" else ""
    lacking = uncompiled or by_hand or _lacking(world)
    kept: Kept | None = ranks.on_first_rank(lambda: begun_with(run, "compile"))
    if engine.compile != "auto":
        if engine.compile and lacking:
            raise UserError("engine.compile", True, f"false, since {lacking}")
        if kept and kept["value"] != engine.compile:
            began = "compiled" if kept["value"] else "without compiling"
            asked = f"compile={str(engine.compile).lower()}, as asked for"
            say(f"engine: {asked}, and the run began {began}: {ROUNDING}")
        return engine
    if kept:
        if kept["value"] and lacking:
            say(f"warning: the run began compiled, and continues without, since {lacking}: {ROUNDING}")
        return replace(engine, compile=bool(kept["value"]) and not lacking)
    if lacking and world.device.type == "cuda":
        say(f"engine: nothing is compiled, since {lacking}")
    engine = replace(engine, compile=not lacking and world.device.type == "cuda")
    if engine.compile:
        say(f"engine: {engine.compiles} are compiled; engine.compile=false leaves it")
    return engine


def _require_compiled(engine: EngineConfig, world: World, run: Path, uncompiled: str) -> None:
    """Refuse to begin with 8 bits where blocks are not compiled (collective); a run that began so goes on.

    Written out, each operand takes passes over memory for its largest number, for scaling and for rounding,
    which cost more than the products save.
    """
    if engine.matmul == "bf16" or engine.compiles == "blocks" or world.device.type != "cuda":
        return  # other devices are refused where layers are made
    if engine.compile:
        why = "ZeRO stage 3 of engine.kind=deepspeed compiles no whole block, as fsdp2 does"
    elif engine.kernels == "triton":
        why = "engine.kernels=triton stands in the place of compiled blocks"
    else:
        why = uncompiled or _lacking(world) or "engine.compile is false"
    if not ranks.on_first_rank(lambda: bool(chosen(run))):
        raise UserError("engine.matmul", engine.matmul, f"bf16, since {why}: 8 bits save nothing uncompiled")
    say(f"warning: {engine.matmul} is slower than bf16 here, since {why}")


def _lacking(world: World) -> str:
    """Return what torch.compile lacks on some rank, or '' (collective)."""
    here = lacks_compiler(world.device.type)
    if world.size == 1:
        return here
    somewhere = float(ranks.max_over_ranks(torch.tensor([float(bool(here))], device=world.device)))
    return here or ("another node has no compiler or no Triton" if somewhere else "")


def _settle_shards(engine: EngineConfig, world: World, run: Path) -> EngineConfig:
    """Keep how many ranks share the state where that can be; otherwise take those of a node, and say so."""
    if engine.kind != "fsdp2" or engine.shard_ranks:
        return engine
    kept: Kept | None = ranks.on_first_rank(lambda: begun_with(run, "shard_ranks"))
    if kept and kept["value"] and world.size % int(kept["value"]) == 0:
        return replace(engine, shard_ranks=int(kept["value"]))
    usual = engine.copy_ranks(world.size, environment.ranks_on_node(world.size))
    if kept and kept["value"]:
        began = counted(int(kept["value"]), "rank")
        say(
            f"engine: {usual} ranks share the state, since {began} as at the start do not divide {world.size}"
        )
    return replace(engine, shard_ranks=usual)


def _settle_reduction(engine: EngineConfig, world: World, run: Path) -> EngineConfig:
    """Keep in which numbers ranks add up gradients; say so where others are usual for so many ranks."""
    if engine.reduce_dtype != "auto":
        return engine
    usual: Literal["bf16", "fp32"] = "fp32" if engine.reduces_in_fp32(world.size) else "bf16"
    kept: Kept | None = ranks.on_first_rank(lambda: begun_with(run, "reduce_dtype"))
    if kept is None or not engine.may_reduce_in_bf16:
        return replace(engine, reduce_dtype=usual)
    begun: Literal["bf16", "fp32"] = "fp32" if kept["value"] == "fp32" else "bf16"
    if begun != usual:
        begun_in = f"gradients are added up in {begun}, as at the start"
        say(f"engine: {begun_in}; engine.reduce_dtype={usual} is usual for {counted(world.size, 'rank')}")
    return replace(engine, reduce_dtype=begun)
