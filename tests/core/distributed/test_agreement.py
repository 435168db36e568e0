"""Run: pytest tests/core/distributed/test_agreement.py"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from core.batch import Batch, Tally
from core.distributed.agreement import StepAgreement, order_hash, tally
from core.distributed.ranks import World
from core.errors import WorkError


def batch(ids: list[int], order: int | None = None) -> Batch:
    place = torch.arange(len(ids))
    return Batch(
        x=torch.zeros(len(ids), 1),
        id=torch.tensor(ids),
        position=place,
        weight=torch.ones(len(ids)),
        order_hash=order,
    )


def hash_of(ids: list[int], step: int = 4) -> int:
    return order_hash(step, np.array(ids), np.arange(len(ids)))


@given(ids=st.lists(st.integers(0, 2**40), min_size=1, max_size=40), cut=st.integers(0, 40))
def test_hashes_of_parts_add_up_to_that_of_the_whole(ids: list[int], cut: int) -> None:
    places = np.arange(len(ids))
    parts = [order_hash(9, np.array(ids, np.int64)[s], places[s]) for s in (slice(cut), slice(cut, None))]
    assert sum(parts) % (1 << 40) == hash_of(ids, 9)


def test_another_sample_place_or_step_is_another_hash() -> None:
    hashes = {hash_of(ids) for ids in ([1, 2, 3], [1, 3, 2], [1, 2, 4], [1, 2], [1, 2, 3, 3], [1, 2, 2])}
    assert len(hashes | {hash_of([1, 2, 3], 5)}) == 7


def test_samples_that_do_not_make_up_the_step_end_the_run(world: World) -> None:
    right = batch([5, 6, 7], hash_of([5, 6, 7]))
    agreement = StepAgreement(4, [right], world)
    assert float(agreement.total_weight()) == 3.0
    agreement.require()
    halves = [replace(right, id=right.id[s], position=right.position[s]) for s in (slice(2), slice(2, 3))]
    StepAgreement(4, [replace(h, weight=torch.ones(len(h.id))) for h in halves], world).require()
    with pytest.raises(WorkError, match="in step 5 are not those that make it up here"):
        StepAgreement(4, [batch([5, 6, 8], hash_of([5, 6, 7]))], world).require()


def test_what_a_loader_added_up_is_taken(world: World) -> None:
    right = batch([5, 6, 7], hash_of([5, 6, 7]))
    made = replace(right, tally=tally(4, right))
    assert made.tally == Tally(3.0, hash_of([5, 6, 7]))
    StepAgreement(4, [made], world).require()
    unread = replace(right, weight=torch.tensor([1.0, 0.0, 1.0]))
    for one, total, all_count in ((right, 3.0, True), (made, 3.0, True), (unread, 2.0, False)):
        agreement = StepAgreement(4, [one], world)
        assert (float(agreement.total_weight()), agreement.all_count) == (total, all_count)
    with pytest.raises(WorkError, match="in step 5 are not those that make it up here"):
        StepAgreement(4, [replace(made, tally=tally(5, right))], world).require()


def test_the_hash_of_the_whole_step_is_known_after_it(world: World) -> None:
    agreement = StepAgreement(4, [batch([5, 6, 8])], world)
    assert agreement.order_hash is None
    agreement.require()
    assert agreement.order_hash == hash_of([5, 6, 8])


class Summed:
    """Stands for the sum over ranks of the numbers that several agreements give."""

    def __init__(self, agreements: list[StepAgreement]) -> None:
        self._sum = torch.tensor([a._numbers for a in agreements], dtype=torch.float64).sum(0)

    def wait(self) -> torch.Tensor:
        return self._sum


def of_ranks(shares: list[Batch], peers: int, world: World) -> list[StepAgreement]:
    """Return the agreements on step 4 of as many ranks as there are shares."""
    made = [StepAgreement(4, [share], replace(world, rank=rank), peers) for rank, share in enumerate(shares)]
    for one in made:
        one._ranks, one._sum = len(shares), Summed(made)  # type: ignore[assignment]
    return made


def test_ranks_that_share_samples_count_once_and_must_hold_the_same(world: World) -> None:
    whole, places = hash_of([5, 6]), torch.arange(2)
    first, second = (replace(batch([id]), position=places[at : at + 1]) for at, id in enumerate((5, 6)))
    same = of_ranks([first, replace(first, order_hash=whole), second, second], 2, world)
    assert [(one.require(), one.order_hash) for one in same] == [(False, whole)] * 4
    for other in of_ranks([first, second, second, second], 2, world):
        with pytest.raises(WorkError, match="share samples hold different ones in step 5"):
            other.require()
    astray = of_ranks([first, first, second, replace(second, order_hash=whole + 1)], 2, world)
    for rank, one in enumerate(astray):  # the rank whose turn it is ends the run
        if rank < 3:
            one.require()
    with pytest.raises(WorkError, match="in step 5 are not those that make it up here"):
        astray[3].require()


def test_a_source_that_does_not_know_the_whole_step_is_taken_at_its_word(world: World) -> None:
    StepAgreement(4, [batch([5, 6, 8])], world).require()
