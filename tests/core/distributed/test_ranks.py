"""Ranks, on one rank. Run: pytest tests/core/distributed/test_ranks.py"""

from __future__ import annotations

import pytest
import torch

from core.distributed import ranks
from core.distributed.ranks import World
from core.environment import place
from core.errors import UserError, WorkError


def test_a_process_started_by_hand_is_a_world_of_one(world: World) -> None:
    assert (world.rank, world.size, world.local_rank, world.device.type) == (0, 1, 0, "cpu")
    assert ranks.is_first()


def test_reductions_give_new_tensors(world: World) -> None:
    tensor = torch.tensor([1.0, 2.0])
    for reduced in (ranks.sum_over_ranks(tensor), ranks.max_over_ranks(tensor)):
        assert torch.equal(reduced, tensor)
        assert reduced.data_ptr() != tensor.data_ptr()
    assert float(ranks.PendingSum(torch.tensor(3.0)).wait()) == 3.0
    assert ranks.gather_objects("x") == ["x"]


def test_a_failure_of_the_first_rank_keeps_its_kind(world: World) -> None:
    def fail(error: Exception) -> None:
        raise error

    with pytest.raises(UserError, match="steps=0"):
        ranks.on_first_rank(lambda: fail(UserError("steps", 0, "1 or more")))
    with pytest.raises(WorkError, match="No space"):
        ranks.on_first_rank(lambda: fail(OSError(28, "No space left on device")))


def test_what_every_rank_did_is_told_to_all_or_its_failure(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def work() -> str:
        if failing:
            raise UserError("steps", 0, "1 or more")
        return "mine"

    failing = False
    assert ranks.on_every_rank(work) == ["mine"]
    monkeypatch.setattr(
        ranks, "gather_objects", lambda mine: [mine, (None, (WorkError, ("disk full",))), mine]
    )
    with pytest.raises(WorkError, match="disk full"):
        ranks.on_every_rank(work)
    failing = True
    with pytest.raises(UserError, match="steps=0"):
        ranks.on_every_rank(work)


def test_a_device_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UserError, match=r"^device=tpu: expected auto, cpu or cuda"):
        ranks.start("tpu")


@pytest.mark.parametrize(("count", "own"), [(8, True), (4, True), (1, False)])
def test_nccl_is_bound_to_a_device_that_no_other_rank_can_have(
    count: int, own: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of 4 ranks of a node, which see so many devices: one device is each rank's own, or that of all."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("RANK", "6")
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    device = torch.device("cuda", 2)
    assert ranks._bound(device, place()) == (device if own else None)
    assert ranks._bound(torch.device("cpu"), place()) is None
