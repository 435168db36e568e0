"""Solvers beside diffusers' schedulers: none is left out, ends agree, and steps take fewer passes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import Tensor

from core.diffusion.paths.kinds import make_path
from core.diffusion.solvers.kinds import KINDS
from core.diffusion.solvers.levels import levels_at
from tests.core.diffusion.test_passes import Counted
from tools.bench.scheduler_peers import PEERS, WITHOUT
from tools.bench.schedulers import CLOSE, Given, make_scheduler, ours, theirs, times_of, ways

pytest.importorskip("diffusers")
SHAPE = (3, 4, 2, 5)  # no other tensor of a scheduler has it


def ends(name: str) -> tuple[Callable[[], Tensor], Callable[[], Tensor]]:
    """Return what takes our steps and what takes those of the scheduler."""
    peer, given = PEERS[name], Given.of(SHAPE)
    scheduler, path = make_scheduler(peer), make_path(peer.path)
    times = times_of(peer, scheduler)
    (first,) = levels_at(path, times[:1])
    start = given.start / first.alpha if peer.is_scaled else given.start
    return lambda: ours(peer, times, path, given), lambda: theirs(peer, scheduler, start, given)


def test_every_solver_has_a_scheduler_beside_it_or_a_reason_why_not() -> None:
    beside = {peer.solver for peer in PEERS.values()}
    assert beside | set(WITHOUT) == set(KINDS)
    assert not beside & set(WITHOUT)


@pytest.mark.parametrize("name", PEERS)
def test_its_end_is_ours_unless_the_table_says_why_not(name: str) -> None:
    """Every evaluation has another output, so that each weight of a step counts."""
    own, other = (take() for take in ends(name))
    assert bool(own.isfinite().all())
    assert bool(other.isfinite().all())
    apart = float((own - other).abs().max() / own.abs().max())
    assert (apart > 10 * CLOSE) if PEERS[name].differs else (apart < CLOSE)
    for way in ways(PEERS[name], SHAPE, repeats=1):
        assert [way.check(item) for item in way.items()] == [True]


@pytest.mark.parametrize("name", PEERS)
def test_steps_go_over_the_state_less_often_than_its(name: str) -> None:
    """Counted over all steps, with what makes data and noise of an output, and scales a network's input."""
    passes = []
    for take in ends(name):
        with Counted(SHAPE) as counted:
            take()
        passes.append(counted.count)
    assert passes[0] <= 0.62 * passes[1], passes


def test_an_end_that_is_not_ours_is_noticed() -> None:
    (own, other) = ways(PEERS["dpmpp_2m"], SHAPE, repeats=1)
    (right,) = own.items()
    assert other.check(right)
    assert not other.check(1.001 * right)
