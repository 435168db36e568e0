"""Ranks, on one rank. Run: pytest tests/core/distributed/test_ranks.py"""

from __future__ import annotations

import contextlib
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from core.distributed import outcomes, ranks
from core.distributed.device_choice import require_own
from core.distributed.ranks import World
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


def test_the_first_failure_of_any_rank_is_told_to_all(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise UserError("steps", 0, "1 or more")

    assert outcomes.on_all_ranks(lambda: "mine") == "mine"
    with pytest.raises(UserError, match="steps=0"):
        outcomes.on_all_ranks(fail)
    others = [None, (1, (WorkError, ("disk full",))), (2, (WorkError, ("no room",)))]
    monkeypatch.setattr(outcomes.waiting, "exchange", lambda mine, combine, *group: combine([mine, *others]))
    with pytest.raises(WorkError, match="disk full"):
        outcomes.on_all_ranks(lambda: "mine")


def test_a_device_that_does_not_exist_is_refused() -> None:
    with pytest.raises(UserError, match=r"^device=tpu: expected auto, cpu or cuda"):
        ranks.start("tpu")


@pytest.mark.parametrize("shared", [False, True])
def test_nccl_connects_at_once_after_ranks_have_seen_that_each_has_its_device(
    shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ranks started by hand, of which nothing says how many share a node; the second sees one device."""
    for name, value in {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "a", "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    monkeypatch.setenv("LOCAL_RANK", "1")
    store, done, device = dist.HashStore(), [], torch.device("cuda", 0)
    uuids = iter(["GPU-0", "GPU-0" if shared else "GPU-1"])
    monkeypatch.setattr(ranks, "device_of", lambda *name: device)
    monkeypatch.setattr(ranks, "bind", lambda *given: None)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    monkeypatch.setattr(
        torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=next(uuids), name="H200")
    )
    monkeypatch.setattr(ranks, "by_environment", lambda *place: done.append("met") or store)
    monkeypatch.setattr(dist, "is_initialized", lambda: False)
    monkeypatch.setattr(dist, "init_process_group", lambda backend, **given: done.append((backend, given)))
    monkeypatch.setattr(ranks.waiting, "begin", lambda timeout_s: None)
    monkeypatch.setattr(ranks.waiting, "meet", lambda: None)
    other = Thread(target=suppressed, args=(store, device))
    other.start()
    other.join(0.1)
    if shared:
        with pytest.raises(UserError, match="ranks 0 and 1 have the same H200"):
            ranks.start("cuda")
        assert done == ["met"]
    else:
        assert ranks.start("cuda") == World(1, 2, 1, device)
        (met, (backend, given)) = done
        assert (met, backend, given["device_id"]) == ("met", "nccl", device)
        assert given["store"] is store
        assert given["init_method"] is None
    other.join()


def suppressed(store: Any, device: torch.device) -> None:
    """Be the first rank, which is told of a shared device like the second."""
    with contextlib.suppress(UserError):
        require_own(store, device, 0, 2)
