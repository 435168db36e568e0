"""Flipped bits and wrong arithmetic. Run: pytest tests/core/train/test_corruption.py"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from core.batch import Batch
from core.distributed import ranks
from core.distributed.ranks import World
from core.errors import WorkError
from core.records import read_rows
from core.train.config import TrainerConfig
from core.train.corruption import checksums, compare, same_losses
from core.train.trainer import Trainer
from tests.core.ranks import run_ranks
from tests.core.toy_run import STAGES, ToyObjective, toy_trainer
from tests.core.train.test_trainer import assert_equal_runs


def flip(tensor: Tensor, bit: int = 0) -> None:
    """Flip one bit of the first number."""
    tensor.detach().view(-1).view(torch.uint8)[:1].bitwise_xor_(1 << bit)


def before_step(trainer: Trainer, step: int, act: Callable[[], object]) -> None:
    """Do something between the update before `step_index` and its own."""
    batches = trainer.data.batches

    def watched(first: int) -> Iterator[list[Batch]]:
        for number, parts in enumerate(batches(first), first):
            if number == step:
                act()
            yield parts

    trainer.data = replace(trainer.data, batches=watched)


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("what", ["master 0", "exp_avg 0", "average 0.5 0"])
def test_a_bit_that_turns_over_ends_the_run(world: World, tmp_path: Path, stage: Any, what: str) -> None:
    trainer = toy_trainer(tmp_path, world, steps=6, zero_stage=stage, check_every=1)
    assert trainer.ema
    held = {
        "master 0": trainer.engine.masters[0],
        "exp_avg 0": trainer.engine.moments()["exp_avg"][0],
        "average 0.5 0": trainer.ema.averages["0.5"][0],
    }
    before_step(trainer, 3, lambda: flip(held[what]))
    with pytest.raises(WorkError, match=f"rank 0: {what} changed between two updates, found before step 4"):
        trainer.fit()
    (row,) = read_rows(tmp_path / "incidents.jsonl")
    assert (row["kind"], row["step"]) == ("corrupt", 4)
    assert row["ranks"] == [{"rank": 0, "what": [what], "how": "changed between two updates"}]


def test_arithmetic_that_is_wrong_once_is_found(world: World, tmp_path: Path) -> None:
    class Unsteady(ToyObjective):
        calls = 0

        def loss(self, *arguments: Any) -> Any:
            self.calls += 1
            losses = super().loss(*arguments)
            if self.calls == 4:  # steps 1 and 2, then the first of the two passes of the check
                flip(losses.loss)
            return losses

    trainer = toy_trainer(tmp_path, world, steps=6, check_every=3)
    trainer.stepper.objective = Unsteady()
    with pytest.raises(
        WorkError, match=r"rank 0: loss came out otherwise when computed again \(.*\), found before"
    ):
        trainer.fit()
    assert trainer.step == 2


@pytest.mark.parametrize("stage", STAGES)
def test_checking_changes_nothing(world: World, tmp_path: Path, stage: Any) -> None:
    checked, plain = tmp_path / "checked", tmp_path / "plain"
    options: dict[str, Any] = {"steps": 5, "dropout": 0.3, "zero_stage": stage, "validate_every": 2}
    toy_trainer(checked, world, check_every=1, **options).fit()
    toy_trainer(plain, world, **options).fit()
    assert_equal_runs(checked, plain)


def test_nothing_is_gathered_while_all_is_well(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = toy_trainer(tmp_path, world, steps=4, check_every=1)
    gathered: list[object] = []
    reduced: list[int] = []
    gather, reduce = ranks.gather_objects, ranks.max_over_ranks

    def gathering(value: Any, *group: Any) -> list[Any]:
        if isinstance(value, list):  # as findings and checksums are; others are gathered at the end of a run
            gathered.append(value)
        return gather(value, *group)

    def reducing(tensor: Tensor) -> Tensor:
        reduced.append(tensor.numel())
        return reduce(tensor)

    monkeypatch.setattr(ranks, "gather_objects", gathering)
    monkeypatch.setattr(ranks, "max_over_ranks", reducing)
    trainer.fit()
    assert reduced.count(3) == 4
    assert gathered == []


@pytest.mark.multiprocess
def test_what_is_wrong_on_rank_1_ends_all_and_names_it_with_either_engine(tmp_path: Path) -> None:
    run_ranks(2, str(Path(__file__).with_name("corrupt_run.py")), str(tmp_path))
    how = {
        "weight": r"rank 1: (weight|master \d).* changed between two updates, found before step 3",
        "master": r"rank 1: master 0.* changed between two updates, found before step 3",
        "arithmetic": r"rank 1: loss came out otherwise when computed again",
    }
    for kind in ("deepspeed", "fsdp2"):
        for fault, expected in how.items():
            one, other = ((tmp_path / f"{kind}-{fault}-{rank}.txt").read_text() for rank in range(2))
            assert one == other, (kind, fault)
            assert re.match(expected, one), (kind, fault, one)


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    ("count", "shard_ranks", "who"),
    [
        (2, 1, r"rank 1: .* differs from that of rank 0"),
        # Of two nobody knows which is right, of four the other three say it.
        pytest.param(4, 2, r"rank 3: .* differs from that of rank 1", marks=pytest.mark.full),
        pytest.param(4, 1, r"rank 1: .* is not what the other ranks hold", marks=pytest.mark.full),
    ],
)
def test_replicas_that_differ_are_found(tmp_path: Path, count: int, shard_ranks: int, who: str) -> None:
    """A bit turns over before an update, so that its rank takes what comes of it for right."""
    program = str(Path(__file__).with_name("replicas_run.py"))
    for text in run_ranks(count, program, str(tmp_path), str(shard_ranks)):
        found = dict(line.split(" ", 1) for line in text.splitlines() if " " in line)
        assert found["well"] == found["muon"] == "ended well"
        for name, what in (("master", "master 0"), ("moment", "exp_avg_sq 0"), ("frozen", "part of frozen")):
            assert re.search(f"^{who}, found before step 4", found[name]), found[name]
            assert what in found[name]


def test_by_default_every_checkpoint_follows_a_check() -> None:
    config = TrainerConfig()
    assert config.save_every % config.check_every == 0


def test_only_where_sums_have_one_order_must_losses_agree_to_the_bit() -> None:
    losses = torch.tensor([0.5, 2.0, torch.nan])
    rounded, wrong = losses * (1 + 1e-6), losses * torch.tensor([1.0, 1.01, 1.0])
    for exact in (True, False):
        assert same_losses(losses, losses.clone(), exact=exact)
        assert not same_losses(losses, wrong, exact=exact)
        assert same_losses(losses, rounded, exact=exact) is not exact


def test_any_bit_changes_a_checksum() -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.float64, torch.int8):
        tensor = torch.arange(7).to(dtype)
        before = checksums([("x", tensor)])
        for bit in range(8):
            flip(tensor, bit)
            assert checksums([("x", tensor)]) != before
            flip(tensor, bit)
        assert checksums([("x", tensor)]) == before


MOST, EVEN = "is not what the other ranks hold", "differs from that of rank 0"


@pytest.mark.parametrize(
    ("held", "corrupt", "how"),
    [
        ("AAA", [], ""),
        ("AAB", [2], MOST),
        ("BAA", [0], MOST),
        ("AB", [1], EVEN),
        ("AABC", [2, 3], EVEN),  # two corrupt ranks: two of four agree, as two others might
        ("BCAA", [1, 2, 3], EVEN),
        ("AABB", [2, 3], EVEN),
        ("AAABC", [3, 4], MOST),
        ("BCAAA", [0, 1], MOST),
    ],
)
def test_the_odd_ranks_are_told_where_most_agree(held: str, corrupt: list[int], how: str) -> None:
    """The tensor named y is the same everywhere."""
    found = compare(["x", "y"], [[ord(letter), 0] for letter in held], range(len(held)))
    assert found == [{"rank": rank, "what": ["x"], "how": how} for rank in corrupt]


def test_no_more_than_four_names_are_told() -> None:
    (entry,) = compare(list("abcde"), [[0] * 5, [0] * 5, [1] * 5], [1, 3, 5])
    assert entry == {"rank": 5, "what": ["a", "b", "c", "d"], "how": MOST}
