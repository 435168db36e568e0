"""Whether training fits a rank, and the stage that `engine.zero_stage=auto` stands for."""

from __future__ import annotations

from core.memory.fitting import fit, least_stage
from core.memory.micro_batch import Measured
from core.memory.state import ParameterGroup, TrainingState

NUMBERS = 10**9
SAMPLE = 10**8
ACTIVATIONS = [Measured([SAMPLE], [2 * SAMPLE])]


def state(stage: int, ranks: int) -> TrainingState:
    return TrainingState(groups=[ParameterGroup([(1000, 1000)] * 1000)], ranks=ranks, zero_stage=stage)


def least(ranks: int, usable: int) -> int:
    found = {
        stage: fit(state(stage, ranks), usable, [32], ACTIVATIONS, micro_batch="auto") for stage in range(4)
    }
    return least_stage(ranks, found)


def test_one_rank_has_nothing_to_share_out() -> None:
    assert least(1, 1) == 0
    assert least(1, 1 << 60) == 0


def test_more_ranks_take_the_least_stage_that_fits_with_one_sample() -> None:
    """Stage 3 takes more than stage 2 here: all gathered weights of so small a network are kept."""
    needed = [
        sum(each.parts().values()) + max(SAMPLE, each.update_excess())
        for each in (state(stage, 8) for stage in range(4))
    ]
    for room in (*needed, 1, 1 << 60):
        fitting = [stage for stage in range(4) if needed[stage] <= room]
        assert least(8, room) == min(fitting, default=needed.index(min(needed)))
    assert [least(8, room) for room in needed[:3]] == [0, 1, 2]


def test_a_stage_fits_with_the_micro_batches_that_are_asked_for() -> None:
    room = sum(state(1, 8).parts().values()) + 10 * SAMPLE + state(1, 8).update_excess()
    sizes = [fit(state(1, 8), room, [32], ACTIVATIONS, micro_batch=n) for n in ("auto", 16, 0)]
    assert [each.fits for each in sizes] == [True, False, False]
    assert [each.micro_batches for each in sizes[1:]] == [[16], [32]]
    assert sizes[0].micro_batches[0] >= 8
    more = fit(state(1, 8), room, [32], ACTIVATIONS, micro_batch="auto", more={"samples read ahead": room})
    assert not more.fits
    assert more.micro_batches == [1]
    assert more.bytes == sum(more.parts.values()) + max(SAMPLE, state(1, 8).update_excess())
