"""Run: pytest tests/core/metrics/test_rank_report.py"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from core.distributed.ranks import World
from core.engine.config import EngineConfig
from core.metrics.phases import MEASURED, Phases
from core.metrics.rank_report import (
    ALONE,
    ALONE_IF_MEETING,
    NUMBERS,
    Stragglers,
    compared,
    rank_numbers,
    rank_report,
)

ONE = World(0, 1, 0, torch.device("cpu"))


def together(ranks: Sequence[dict[str, float]], alone: Sequence[str]) -> tuple[dict[str, Any], list[int]]:
    """Return the report that all ranks come to, and how many numbers each reduction had."""
    count, sizes = len(ranks), []
    every = [dict.fromkeys(NUMBERS, 0.0) | rank for rank in ranks]
    comparisons = [compared(mine, rank, count, alone) for rank, mine in enumerate(every)]
    asked = [next(each) for each in comparisons]
    while True:
        ((kind, size),) = {(kind, len(numbers)) for kind, numbers in asked}
        sizes.append(size)
        reduce = max if kind == "max" else sum
        over_ranks = [float(reduce(column)) for column in zip(*(n for _, n in asked), strict=True)]
        answers, reports = [], []
        for each in comparisons:
            try:
                answers.append(each.send(over_ranks))
            except StopIteration as end:
                reports.append(end.value)
        if reports:
            assert reports == [reports[0]] * count
            return reports[0], sizes
        asked = answers


def report(*ranks: dict[str, float], alone: Sequence[str] = ALONE) -> dict[str, Any]:
    return together(ranks, alone)[0]


def test_what_ranks_tell_one_another_does_not_grow_with_the_world() -> None:
    usual = {"data": 0.1, "forward": 1.0, "update": 3.0}
    few, many = (together([usual] * count, ALONE)[1] for count in (2, 64))
    assert few == many
    assert sum(few) <= 24


def test_one_rank_reports_without_others() -> None:
    found = rank_report(rank_numbers(Phases(), ONE), ONE)
    assert (found["count"], found["slowest"]["rank"], found["straggler"]) == (1, 0, None)
    assert 0.01 < found["memory_gb"] < 100
    assert NUMBERS[: len(MEASURED)] == MEASURED  # in the order of `Phases.take`


def test_a_straggler_is_named_with_its_phase() -> None:
    usual = {"data": 0.1, "forward": 1.0, "update": 3.0}
    late = {"data": 2.1, "forward": 1.1, "update": 0.9}
    result = report(usual, late, usual)
    assert result["straggler"] == {"rank": 1, "phase": "data", "behind_s": pytest.approx(2.1)}
    assert (result["slowest"]["rank"], result["fastest"]["rank"]) == (1, 0)
    assert result["count"] == 3


def test_a_straggler_is_told_when_it_stays_one_and_once(capsys: pytest.CaptureFixture[str]) -> None:
    usual, late = {"data": 0.1, "forward": 1.0, "update": 3.0}, {"data": 2.1, "forward": 1.1, "update": 0.9}
    stragglers, told = Stragglers(), "rank 1 holds the others up: 2.1 s behind in data, in the steps up to"
    seen = []
    for step, ranks in enumerate(
        [
            (usual, late),
            (usual, usual),
            (usual, late),
            (usual, late),
            (usual, late),
            (late, usual),
            (late, usual),
        ]
    ):
        stragglers.note(report(*ranks), step)
        seen.append(capsys.readouterr().err)
    assert [bool(line) for line in seen] == [False, False, False, True, False, False, True]
    assert f"{told} 3" in seen[3]
    assert "rank 0" in seen[6]


def test_ranks_that_wait_for_a_late_one_in_a_forward_pass_do_not_hide_it() -> None:
    late, waiting = {"data": 2.1, "forward": 1.0, "update": 1.0}, {"data": 0.1, "forward": 3.0, "update": 1.0}
    assert report(waiting, late)["straggler"] is None
    assert report(waiting, late, alone=ALONE_IF_MEETING)["straggler"]["rank"] == 1
    assert report(late, waiting, waiting, waiting, alone=ALONE_IF_MEETING)["straggler"]["rank"] == 0
    computing, idle = {"forward": 3.0, "computing": 2.5}, {"forward": 3.0, "computing": 0.4}
    found = report(idle, computing, alone=ALONE_IF_MEETING)["straggler"]
    assert found == {"rank": 1, "phase": "computing", "behind_s": pytest.approx(2.1)}
    assert EngineConfig(sequence_parallel=2).meets_in_forward
    assert EngineConfig(zero_stage=3).meets_in_forward
    assert not EngineConfig(zero_stage=2).meets_in_forward


@pytest.mark.parametrize("alone", [ALONE, ALONE_IF_MEETING])
def test_a_slow_gpu_is_named_by_its_probe_though_all_ranks_take_the_same_time(alone: Sequence[str]) -> None:
    usual = {"forward": 1.0, "backward": 1.0, "update": 6.0}
    ranks = [usual | {"probe_s": probe} for probe in (30e-6, 40e-6, 31e-6)]
    straggler = report(*ranks, alone=alone)["straggler"]
    assert (straggler["rank"], straggler["phase"]) == (1, "computing")
    assert straggler["behind_s"] == pytest.approx(8 * (1 - 3 / 4) - 8 * (1 - 30 / 31) / 2)
    assert report(usual, usual | {"probe_s": 40e-6}, usual, alone=alone)["straggler"] is None  # nothing yet
    assert report(*([ranks[0], ranks[2]] * 2), alone=alone)["straggler"] is None


def test_even_ranks_and_a_single_one_have_no_straggler() -> None:
    usual = {"data": 0.1, "forward": 1.0, "update": 3.0}
    assert report(usual, usual | {"forward": 1.1}, usual)["straggler"] is None
    assert report({"data": 5.0})["straggler"] is None


def test_memory_and_stalls_are_the_worst_ranks_and_retries_add_up() -> None:
    result = report(
        {"memory_gb": 3.0, "allocation_retries": 2, "save": 0.5},
        {"memory_gb": 4.0, "allocation_retries": 1, "validate": 7.0},
    )
    assert (result["memory_gb"], result["allocation_retries"]) == (4.0, 3)
    assert (result["save_stall_s"], result["validate_s"]) == (0.5, 7.0)
