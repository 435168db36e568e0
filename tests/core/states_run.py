"""Save and load toy states on several ranks: `python tests/core/states_run.py JOBS.json`, once per rank.

JOBS.json: a list of [action, ...]:
    ["save", folder, stage, rule]        train two steps, write a checkpoint; rule: adamw (default) or muon
    ["load", folder, stage, rule]        load it into another network and compare every tensor with the files
    ["average", result, stage]           average shards and whole parameters, write whether they are equal
    ["train", result, stage, steps, ...] train with options, write losses, norms, weights and averages
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from core.averages.ema import Ema, EmaConfig, remaining
from core.checkpoint.reader import CheckpointReader
from core.checkpoint.restore import load
from core.checkpoint.snapshot import take
from core.checkpoint.writer import write_checkpoint
from core.distributed import ranks
from core.distributed.ranks import World
from core.draws import Draws
from core.engine.engine import Engine, StepResult
from core.engine.network import MAIN, Network
from core.run.ending import end_with
from tests.core.toy_run import BATCH, ToyObjective, toy_batches, toy_engine

EMA = EmaConfig(decay=0.9, extra_decays=(0.5,))


def train(
    engine: Engine, ema: Ema, world: World, steps: int, micro_batch: int = 0, **poison: int
) -> list[StepResult]:
    """Train over the toy batches; poison: rank and step whose loss is NaN."""
    results = []
    for step, parts in zip(range(steps), toy_batches(world, micro_batch)(0), strict=False):
        for batch in parts:
            losses = ToyObjective().loss(engine, batch, Draws(7, step, batch.id, batch.position))
            bad = poison == {"rank": world.rank, "step": step}
            engine.backward(losses.loss.sum() / BATCH * (float("nan") if bad else 1.0))
        results.append(engine.step(1e-2))
        if results[-1].applied:
            ema.update(engine.masters, engine.updates)
    return results


def save(world: World, folder: str, stage: int, rule: str = "adamw") -> None:
    engine = toy_engine(world, zero_stage=stage, rule=rule)
    ema = Ema(EMA, engine.masters)
    train(engine, ema, world, 2)
    state = {"step": 2, "updates": 2, "ema": EMA.names}
    write_checkpoint(
        Path(folder), take({MAIN: Network(engine, ema)}, state, None), number=1, may_commit=lambda: None
    )


def load_and_compare(world: World, folder: str, stage: int, rule: str = "adamw") -> None:
    engine = toy_engine(world, seed=1, zero_stage=stage, rule=rule)
    ema = Ema(EMA, engine.masters)
    load(Path(folder), {MAIN: Network(engine, ema)})
    reader = CheckpointReader(Path(folder))
    states = {
        "weight": engine.masters,
        **engine.moments(),
        **{f"ema-{name}": tensors for name, tensors in ema.averages.items()},
    }
    assert set(states) == set(reader.kinds)
    for kind, tensors in states.items():
        whole = engine.full_state(tensors)
        if world.rank == 0:
            expected = reader.full(kind)
            assert whole.keys() == expected.keys()
            assert all(torch.equal(whole[name], expected[name]) for name in whole), (folder, stage, kind)
    fixed = engine.fixed()
    assert all(torch.equal(fixed[name], value) for name, value in reader.fixed().items())
    assert engine.updates == 2
    seen = engine(torch.ones(2, 33))  # the network computes with what was loaded, on every rank alike
    assert len({tuple(row.tolist()) for row in ranks.gather_objects(seen.detach().flatten())}) == 1
    assert torch.equal(seen[0], seen[1])


def compare_averages(world: World, result: str, stage: int) -> None:
    engine = toy_engine(world, zero_stage=stage)
    ema, whole = Ema(EMA, engine.masters), engine.full_state()
    for update in (1, 2, 3):
        train(engine, Ema(EMA, engine.masters), world, 1)
        ema.update(engine.masters, update)
        for name, weight in engine.full_state().items():
            whole[name].lerp_(weight, 1 - remaining(EMA.decay, update, 1, EMA.warmup))
    state = engine.full_state(ema.averages[EMA.names[0]])
    if world.rank == 0:
        equal = {name: torch.equal(value, state[name]) for name, value in whole.items()}
        Path(f"{result}.json").write_text(json.dumps(equal))


def train_and_write(world: World, result: str, stage: int, steps: int, options: dict[str, Any]) -> None:
    own = {name: value for name, value in options.items() if name in ("micro_batch", "rank", "step")}
    engine = toy_engine(world, zero_stage=stage, **{k: v for k, v in options.items() if k not in own})
    ema = Ema(EMA, engine.masters)
    results = train(engine, ema, world, steps, **own)
    weights, average = engine.full_state(), engine.full_state(ema.averages["0.9"])
    if world.rank == 0:
        save_file(
            {**weights, **{f"ema/{name}": value for name, value in average.items()}}, f"{result}.safetensors"
        )
    applied = ranks.gather_objects([r.applied for r in results])
    if world.rank == 0:
        Path(f"{result}.json").write_text(
            json.dumps({"norms": [r.grad_norm for r in results], "applied": applied})
        )


def perform(world: World, jobs: list[list[Any]]) -> None:
    actions = {"save": save, "load": load_and_compare, "average": compare_averages, "train": train_and_write}
    for action, *arguments in jobs:
        actions[action](world, *arguments)


def main() -> None:
    world = ranks.start("cpu", 60)
    perform(world, json.loads(Path(sys.argv[1]).read_text()))
    ranks.stop(world)


if __name__ == "__main__":
    end_with(main)
