"""However a run is split over ranks, it is the same run. Run: pytest tests/integration/test_parity.py"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from core.checkpoint.reader import CheckpointReader
from core.checkpoint.weights import find, load_weights
from core.distributed.ranks import World, start
from core.records import read_rows
from tests.core.ranks import finish, start_interpreters, start_ranks
from tests.core.toy_run import engine_fields
from tests.integration import parity_run
from tests.integration.parity_run import LIMIT_S, SHAPES, train

PROGRAM = parity_run.__file__
COUNTS = ("step", "samples", "tokens", "lr", "gflops")


@pytest.fixture(scope="module")
def world() -> World:
    return start("cpu", 60)


def weights(folder: Path) -> dict[str, Tensor]:
    """Return the last weights, without key biases."""
    return without_key_biases(load_weights(folder, "raw"))


def gradients(folder: Path) -> dict[str, Tensor]:
    """Return Adam's mean of the gradients; Adam's updates, and so weights, hide a factor on one of them."""
    return without_key_biases(CheckpointReader(find(folder)).full("exp_avg"))


def without_key_biases(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Set the bias of keys to zero: softmax cancels it, so its gradient is rounding alone."""
    for name, value in state.items():
        if name.endswith("attention.qkv.bias"):
            value.view(3, -1)[1] = 0
        if name.endswith("text.key_value.bias"):
            value.view(2, -1)[0] = 0
    return state


def rows(folder: Path) -> list[dict[str, Any]]:
    timed = ("seconds", "samples_per_s", "tokens_per_s", "tflops_per_s", "data_wait", "ranks")
    found = []
    for row in read_rows(folder / "metrics.jsonl"):
        counts = {"gflops": round(row["tflops_per_s"] * row["seconds"] * 1e3)}
        assert round(row["tokens_per_s"] * row["seconds"]) == row["tokens"]
        found.append({k: v for k, v in row.items() if k not in timed} | counts)
    return found


def assert_equal_runs(one: Path, other: Path, loss: float, weight: float) -> None:
    """Require equal runs. loss: greatest relative difference of loss and gradient norm. weight: absolute one.

    Each gradient, and the validation loss, may differ by 1e-5 of its norm; by nothing where `loss` is 0.
    """
    limit = 1e-5 if loss else 0.0
    first, second = rows(one), rows(other)
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert [a[name] for name in COUNTS] == [b[name] for name in COUNTS]
        for name in ("loss", "grad_norm"):
            assert b[name] == pytest.approx(a[name], rel=loss), (other.name, name, a["step"])
    assert finished(one) == finished(other)
    before, after = weights(one), weights(other)
    assert before.keys() == after.keys()
    for name, value in before.items():
        torch.testing.assert_close(after[name], value, rtol=0, atol=weight, msg=f"{other.name}: {name}")
    before, after = gradients(one), gradients(other)
    least = 1e-3 * max(float(value.norm()) for value in before.values())  # below it, rounding of larger ones
    for name, value in before.items():
        apart = float((after[name] - value).norm()) / max(float(value.norm()), least)
        assert apart <= limit, (other.name, name, apart)
    validated, again = (read_rows(folder / "validation.jsonl") for folder in (one, other))
    assert [row["step"] for row in again] == [row["step"] for row in validated] == [len(first)]
    assert again[-1]["raw"]["loss"] == pytest.approx(validated[-1]["raw"]["loss"], rel=limit)
    deciles = [row[-1]["raw"]["loss_by_decile"] for row in (again, validated)]
    assert deciles[0] == pytest.approx(deciles[1], rel=limit)


def finished(folder: Path) -> Any:
    return json.loads((folder / "finished.json").read_text())


def words(folder: Path, fields: dict[str, Any]) -> list[str]:
    return [f"--run={folder}", *(f"{name}={value}" for name, value in fields.items())]


def run(ranks: int, folder: Path, runs: dict[str, dict[str, Any]], device: str = "cpu") -> list[str]:
    """Train all runs, one after another, on `ranks` ranks; return what rank 0 printed."""
    arguments = [word for name, fields in runs.items() for word in words(folder / name, fields)]
    # Ranks are forked where DeepSpeed has been imported for CPUs.
    start_on = start_ranks if device == "cpu" else start_interpreters
    results = finish(start_on(ranks, PROGRAM, device, *arguments), timeout_s=LIMIT_S)
    for code, text in results:
        assert code == 0, text
    return results[0][1].splitlines()


THREE_HEADS = '{"heads":3}'  # which 2 or 4 ranks cannot share out: a ring
FSDP2: dict[str, Any] = {"kind": "fsdp2"}
ROTARY = '{"positions":"rotary","qk_norm":true}'


@pytest.mark.multiprocess
def test_two_ranks_that_share_tokens_equal_one(world: World, tmp_path: Path) -> None:
    runs: dict[str, dict[str, Any]] = {
        "heads": {"zero_stage": 1, "micro_batch": 3},
        "ring": {"zero_stage": 2, "model": THREE_HEADS, "activation_checkpointing": "selective"},
        "rotary": {"zero_stage": 3, "model": ROTARY, "activation_checkpointing": "selective"},
        "fsdp2": {**FSDP2, "zero_stage": 3, "activation_checkpointing": "full"},
    }
    run(2, tmp_path, {name: {"sequence_parallel": 2, **fields} for name, fields in runs.items()})
    for name, fields in runs.items():
        train(tmp_path / "one" / name, world, zero_stage=0, model=fields.get("model", "{}"))
        assert_equal_runs(tmp_path / "one" / name, tmp_path / name, 1e-5, 1e-5)


@pytest.mark.multiprocess
@pytest.mark.full
def test_four_ranks_that_share_tokens_equal_one(world: World, tmp_path: Path) -> None:
    splits = {"2-2": (2, 2, "{}"), "3-2": (3, 2, "{}"), "3-4": (3, 4, "{}"), "ring": (1, 4, THREE_HEADS)}
    names = ("zero_stage", "sequence_parallel", "model")
    runs = {name: dict(zip(names, split, strict=True)) for name, split in splits.items()}
    runs["fsdp2"] = {**runs["2-2"], **FSDP2}
    runs["replicas"] = {**runs["fsdp2"], "shard_ranks": 2}
    run(4, tmp_path, runs)
    for model in ("{}", THREE_HEADS):
        train(tmp_path / model, world, zero_stage=0, model=model)
    for name, fields in runs.items():
        assert_equal_runs(tmp_path / fields["model"], tmp_path / name, 1e-5, 1e-5)


@pytest.mark.multiprocess
@pytest.mark.full
@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_every_stage_and_split_takes_the_same_twenty_steps(world: World, tmp_path: Path, ranks: int) -> None:
    train(tmp_path / "plain", world, zero_stage=0, steps=20)
    rows: dict[str, dict[str, Any]] = {f"zero-{stage}": {"zero_stage": stage} for stage in range(4)}
    rows |= {f"fsdp2-{stage}": {**FSDP2, "zero_stage": stage} for stage in (2, 3)}
    rows["last"] = {**rows["fsdp2-2"], "reduce": "last", "micro_batch": 1}
    if ranks == 1:
        rows |= {f"micro-{stage}": {"zero_stage": stage, "micro_batch": 2} for stage in range(4)}
        for name, fields in rows.items():
            train(tmp_path / name, world, steps=20, **fields)
    else:
        rows["replicas"] = {**rows["fsdp2-3"], "shard_ranks": 2}
        run(ranks, tmp_path, {name: {**fields, "steps": 20} for name, fields in rows.items()})
    for name in rows:
        assert_equal_runs(tmp_path / "plain", tmp_path / name, 1e-6, 1e-6)


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    ("device", "backend"),
    [
        pytest.param("cpu", "aot_eager", marks=pytest.mark.full),
        pytest.param("cuda", "inductor", marks=pytest.mark.cuda),
    ],
)
def test_both_engines_take_the_same_steps_on_one_device(tmp_path: Path, device: str, backend: str) -> None:
    """In fp32; blocks are compiled before the first step, and nothing later."""
    runs: dict[str, dict[str, Any]] = {f"zero-{stage}": {"zero_stage": stage} for stage in range(4)}
    runs |= {f"fsdp2-{stage}": {**FSDP2, "zero_stage": stage} for stage in (2, 3)}
    runs["recomputed"] = {**runs["fsdp2-3"], "activation_checkpointing": "full"}
    runs["last"] = {**runs["fsdp2-2"], "reduce": "last", "micro_batch": 4}
    runs["compiled"] = {**runs["fsdp2-3"], "backend": backend}
    printed = run(1, tmp_path, runs, device)
    assert f"compiled: graphs ({2 * len(SHAPES)}, 0)" in printed
    for name in runs:
        assert_equal_runs(tmp_path / "zero-0", tmp_path / name, 1e-5, 1e-5)


@pytest.mark.parametrize(("kind", "stage"), [("deepspeed", 1), ("deepspeed", 3), ("fsdp2", 3)])
def test_recomputing_changes_no_bit_of_a_run(world: World, tmp_path: Path, kind: str, stage: int) -> None:
    train(tmp_path / "none", world, kind=kind, zero_stage=stage)
    for mode in ("selective", "every_k", "full"):
        train(tmp_path / mode, world, kind=kind, zero_stage=stage, activation_checkpointing=mode)
        assert rows(tmp_path / mode) == rows(tmp_path / "none")
        assert_equal_runs(tmp_path / "none", tmp_path / mode, 0.0, 0.0)


@pytest.mark.parametrize(("kind", "stage"), [("deepspeed", 1), ("fsdp2", 3)])
def test_compiled_blocks_compute_the_same_and_compile_nothing_later(
    world: World, tmp_path: Path, kind: str, stage: int
) -> None:
    torch._dynamo.reset()
    fields: dict[str, Any] = {"kind": kind, "zero_stage": stage}
    train(tmp_path / "eager", world, **fields)
    assert train(tmp_path / "compiled", world, backend="aot_eager", **fields) == (2 * len(SHAPES), 0)
    assert_equal_runs(tmp_path / "eager", tmp_path / "compiled", 1e-5, 1e-5)


@pytest.mark.full
@pytest.mark.parametrize("mode", ["none", "selective", "every_k", "full"])
@pytest.mark.parametrize("stage", [0, 1, 2, "fsdp2-2", "fsdp2-3"])
def test_inductor_computes_the_same_and_compiles_nothing_later(
    world: World, tmp_path: Path, stage: int | str, mode: str
) -> None:
    """Micro-batches of 3 and 2 without checkpointing, which has nothing to do with their sizes, else 4."""
    torch._dynamo.reset()
    sizes = 2 if mode == "none" else 1
    fields = {**engine_fields(stage), "micro_batch": 3 if sizes == 2 else 4}
    train(tmp_path / "eager", world, **fields)
    fields["activation_checkpointing"] = mode
    before, after = train(tmp_path / "compiled", world, backend="inductor", **fields)
    kinds = 2 if mode == "every_k" else 1  # of blocks
    assert (before, after) == (2 * kinds * sizes * len(SHAPES), 0)  # in training and in validation
    assert_equal_runs(tmp_path / "eager", tmp_path / "compiled", 1e-5, 1e-5)


@pytest.mark.multiprocess
@pytest.mark.full
def test_ranks_that_share_tokens_can_be_compiled(world: World, tmp_path: Path) -> None:
    splits = {"1": (1, "{}"), "2": (2, "{}"), "ring": (2, THREE_HEADS)}
    runs = {
        name: {"zero_stage": stage, "sequence_parallel": 2, "backend": "inductor", "model": model}
        for name, (stage, model) in splits.items()
    }
    printed = run(2, tmp_path, runs)
    assert [line for line in printed if "graphs" in line] == [f"{name}: graphs (4, 0)" for name in splits]
    for model in ("{}", THREE_HEADS):
        train(tmp_path / model, world, zero_stage=0, model=model)
    for name, (_, model) in splits.items():
        assert_equal_runs(tmp_path / model, tmp_path / name, 1e-5, 1e-5)
