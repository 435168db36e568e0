"""States across stages and numbers of ranks. Run: pytest tests/core/engine/test_ranks_and_stages.py"""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from core.distributed.ranks import World
from tests.core import states_run
from tests.core.ranks import run_ranks
from tests.core.toy_run import STAGES

PROGRAM = states_run.__file__
ZERO = (0, 1, 2, 3)
RANKS = (1, 2, 4)
PAIRS = {  # ranks before and after -> stages: 24 of the 144, with all 16 pairs of stages among them
    (1, 2): [(a, b) for a, b in product(ZERO, ZERO) if (a - b) % 4 in (1, 2)],
    (2, 4): [(a, b) for a, b in product(ZERO, ZERO) if (a - b) % 4 == 3],
    (1, 4): [(stage, stage) for stage in ZERO],
    (2, 1): [(stage, stage) for stage in ZERO],
    (4, 1): [(0, 3), (3, 0), (0, 1), (3, 2)],
}
KINDS: dict[tuple[int, int], list[tuple[Any, Any]]] = {  # the same between kinds of engines
    (1, 2): [("fsdp2-2", 1), (0, "fsdp2-3"), ("fsdp2-3", "fsdp2-2")],
    (2, 4): [("fsdp2-3", 2), (3, "fsdp2-2"), ("fsdp2-2", "fsdp2-3-2")],
    (1, 4): [("fsdp2-2", "fsdp2-3")],
    (2, 1): [("fsdp2-2", 0), (1, "fsdp2-2"), ("fsdp2-3", "fsdp2-3")],
    (4, 1): [("fsdp2-3-2", 1), ("fsdp2-3-2", "fsdp2-2")],
}


def run(count: int, folder: Path, jobs: list[list[Any]]) -> None:
    path = folder / f"jobs-{count}.json"
    path.write_text(json.dumps(jobs))
    run_ranks(count, PROGRAM, str(path))


def saved(folder: Path, ranks: int, stage: Any) -> str:
    return str(folder / f"step-00000002.ranks{ranks}-stage{stage}")


def loads(folder: Path, ranks: int, pairs: Sequence[tuple[Any, Any]]) -> list[list[Any]]:
    return [["load", saved(folder, ranks, a), b] for a, b in pairs]


@pytest.mark.multiprocess
@pytest.mark.full
def test_states_load_exactly_for_all_pairs(tmp_path: Path) -> None:
    for ranks in RANKS:
        run(ranks, tmp_path, [["save", saved(tmp_path, ranks, a), a] for a in STAGES])
    every = list(product(STAGES, STAGES))
    for ranks in RANKS:
        run(ranks, tmp_path, [job for source in RANKS for job in loads(tmp_path, source, every)])


@pytest.fixture(scope="module")
def trained(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the results of two ranks, in one start, with a fresh network for each part.

    They train six fp32 steps at every stage (and at stage 0 on one rank), and with a NaN on one rank; save
    states at every stage, and load 8 pairs of stages from one rank's states.
    """
    folder = tmp_path_factory.mktemp("trained")
    options = {"precision": "fp32", "micro_batch": 2}
    states_run.perform(world, [["train", str(folder / "alone"), 0, 6, options]])
    states_run.perform(world, [["save", saved(folder, 1, stage), stage] for stage in STAGES])
    clean = [["train", str(folder / f"fp32-{s}"), s, 6, options] for s in STAGES]
    poison = {"micro_batch": 2, "rank": 1, "step": 1}
    spoilt = [
        ["train", str(folder / f"nan-{precision}-{s}"), s, 3, {"precision": precision, **poison}]
        for precision, s in product(("fp32", "bf16"), STAGES)
    ]
    states = [["save", saved(folder, 2, stage), stage] for stage in STAGES]
    averages = [["average", str(folder / f"average-{stage}"), stage] for stage in STAGES]
    run(2, folder, [*clean, *spoilt, *states, *averages, *loads(folder, 1, [*PAIRS[1, 2], *KINDS[1, 2]])])
    return folder


@pytest.mark.multiprocess
def test_states_load_exactly_on_other_ranks_and_stages(trained: Path, world: World) -> None:
    assert sum(map(len, PAIRS.values())) == 24
    assert {pair for pairs in PAIRS.values() for pair in pairs} == set(product(ZERO, ZERO))
    every = {counts: [*PAIRS[counts], *KINDS[counts]] for counts in PAIRS}
    on_four = [job for before in (1, 2) for job in loads(trained, before, every[before, 4])]
    run(4, trained, [*(["save", saved(trained, 4, a), a] for a in (0, 3, "fsdp2-3-2")), *on_four])
    states_run.perform(world, [job for before in (2, 4) for job in loads(trained, before, every[before, 1])])


def results(folder: Path, name: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    return json.loads((folder / f"{name}.json").read_text()), load_file(folder / f"{name}.safetensors")


@pytest.mark.multiprocess
@pytest.mark.parametrize("name", [*(f"fp32-{stage}" for stage in STAGES[1:]), "alone"])
def test_all_stages_and_splits_train_alike_in_fp32(trained: Path, name: str) -> None:
    numbers, weights = results(trained, "fp32-0")
    others, other_weights = results(trained, name)
    assert others["norms"] == pytest.approx(numbers["norms"], rel=1e-6)
    for key, value in weights.items():  # weights and averages
        torch.testing.assert_close(other_weights[key], value, rtol=0, atol=2e-6)


@pytest.mark.multiprocess
@pytest.mark.parametrize("stage", STAGES)
def test_an_average_of_shards_is_bitwise_that_of_whole_parameters(trained: Path, stage: Any) -> None:
    equal = json.loads((trained / f"average-{stage}.json").read_text())
    assert len(equal) == 5
    assert all(equal.values()), equal


@pytest.mark.multiprocess
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_nan_on_one_rank_skips_the_step_on_all(trained: Path, stage: Any, precision: str) -> None:
    numbers, weights = results(trained, f"nan-{precision}-{stage}")
    assert numbers["applied"] == [[True, False, True]] * 2
    assert all(value.isfinite().all() for value in weights.values())
