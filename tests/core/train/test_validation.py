"""Run: pytest tests/core/train/test_validation.py"""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from core.averages.ema import Ema, EmaConfig
from core.checkpoint.weights import load_weights
from core.distributed.ranks import World
from core.draws import Draws
from core.engine.engine import Engine
from core.metrics.phases import Phases
from core.records import read_rows
from core.train.validation import (
    StratifiedDraws,
    Validation,
    ValidationConfig,
    whole_steps,
)
from tests.core.toy_run import ToyObjective, toy_batches, toy_engine, toy_trainer
from tests.core.train.test_trainer import assert_equal_runs


def make(engine: Engine, folder: Path, **fields: Any) -> Validation:
    batches = next(toy_batches(engine.world, 0)(10**6))
    return Validation(engine, ToyObjective(), lambda: batches, ValidationConfig(**fields), folder=folder)


@pytest.mark.parametrize("stage", [1, 3, "fsdp2-2"])
def test_validating_changes_nothing_in_the_run(world: World, tmp_path: Path, stage: Any) -> None:
    with_it, without = tmp_path / "with", tmp_path / "without"
    options: dict[str, Any] = {"steps": 5, "dropout": 0.3, "zero_stage": stage}
    toy_trainer(with_it, world, validate_every=2, **options).fit()
    toy_trainer(without, world, **options).fit()
    assert_equal_runs(with_it, without)
    assert torch.equal(load_weights(with_it, "raw")["calls"], load_weights(without, "raw")["calls"])
    written = read_rows(with_it / "validation.jsonl")
    assert [row["step"] for row in written] == [2, 4]
    assert set(written[0]) == {"step", "raw", "0.9", "0.5"}
    assert set(written[0]["raw"]) == {"loss", "loss_by_decile", "distance"}
    assert len(written[0]["raw"]["loss_by_decile"]) == 10
    assert all(written[0]["raw"]["loss_by_decile"])  # every stratum is met
    assert not (without / "validation.jsonl").exists()


@pytest.mark.parametrize(
    ("stage", "precision"),
    [*product((1, 2, 3, "fsdp2-2"), ["bf16"]), (0, "fp32"), ("fsdp2-3", "fp32")],
)
def test_averages_are_validated_as_if_they_were_the_weights(
    world: World, tmp_path: Path, stage: Any, precision: str
) -> None:
    engine = toy_engine(world, zero_stage=stage, precision=precision)
    ema = Ema(EmaConfig(decay=0.5), engine.masters)
    for average in ema.averages["0.5"]:
        average.mul_(1.25)
    before = [flat.detach().clone() for flat in engine.masters]
    validation, phases = make(engine, tmp_path, strata=2), Phases()
    raw, averaged = validation.measure(None, phases), validation.measure(ema.averages["0.5"], phases)
    assert validation.measure(None, phases) == raw != averaged
    assert all(torch.equal(one, other) for one, other in zip(before, engine.masters, strict=True))
    for flat, average in zip(engine.masters, ema.averages["0.5"], strict=True):
        flat.detach().copy_(average)
    engine.refresh()
    assert validation.measure(None, phases) == averaged


def test_evaluation_is_without_dropout_and_training_goes_on_with_it(world: World, tmp_path: Path) -> None:
    engine = toy_engine(world, zero_stage=1, dropout=0.5)
    validation = make(engine, tmp_path, strata=1)
    assert validation.measure(None, Phases()) == validation.measure(None, Phases())
    assert engine.module.training


def test_strata_cover_the_times_and_leave_other_draws_alone() -> None:
    ids, zeros = torch.arange(50), torch.zeros(50, dtype=torch.int64)
    plain = Draws(3, 5, ids, zeros)
    parts = [StratifiedDraws(3, 5, ids, zeros, stratum, 4) for stratum in range(4)]
    times: list[Tensor] = [part.uniform("time") for part in parts]
    assert all(torch.all((t > k / 4) & (t < (k + 1) / 4)) for k, t in enumerate(times))
    assert torch.equal(parts[2].uniform("dropout"), plain.uniform("dropout"))
    assert torch.equal(parts[2].normal("noise", (3,)), plain.normal("noise", (3,)))


def test_a_sample_that_comes_again_has_other_draws(world: World, tmp_path: Path) -> None:
    """Two places of two samples, in two parts of the times, give eight draws, whatever the batch."""
    validation = make(toy_engine(world, zero_stage=0), tmp_path, strata=2)
    (first,) = next(toy_batches(world, 2)(0))[:1]
    batches = list(whole_steps(lambda step: [first], 4, 1))
    assert [batch.position.tolist() for batch in batches] == [[0, 1], [2, 3]]
    draws = [validation.draws(batch, stratum).normal("noise") for batch in batches for stratum in range(2)]
    assert len(torch.cat(draws).unique()) == 8
    again = replace(batches[1], id=batches[1].id[1:], position=batches[1].position[1:])
    assert torch.equal(validation.draws(again, 1).normal("noise"), draws[3][1:])


def test_a_row_is_told_in_a_line(world: World, tmp_path: Path) -> None:
    row = {"step": 500, "raw": {"loss": 0.18023, "loss_by_decile": []}, "0.9999": {"loss": None}}
    assert (
        make(toy_engine(world), tmp_path).line(row)
        == "validation after step 500: raw 0.1802, 0.9999 not finite"
    )


def test_whole_steps_are_taken_so_that_ranks_do_not_matter(world: World) -> None:
    def samples(ranks: int) -> set[tuple[int, int]]:
        worlds = [World(rank, ranks, rank, world.device) for rank in range(ranks)]
        loads = [lambda step, one=one: next(toy_batches(one, 2)(step)) for one in worlds]
        batches = [batch for load in loads for batch in whole_steps(load, 19, ranks)]
        return {(int(i), int(k)) for b in batches for i, k in zip(b.id, b.position, strict=True)}

    assert samples(1) == samples(2) == samples(4) == {(number, number) for number in range(24)}
