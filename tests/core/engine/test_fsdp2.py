"""FSDP2 beside DeepSpeed: odd rows, several ranks, replicas. Run: pytest tests/core/engine/test_fsdp2.py"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from core.distributed.ranks import World
from core.engine.config import EngineConfig
from core.engine.kinds import make_engine
from core.engine.restoring import dry_step
from core.errors import UserError
from core.optim.groups import OptimizerConfig
from tests.core.engine import fsdp2_run
from tests.core.engine.fsdp2_run import OddNet, make, samples, train
from tests.core.ranks import run_ranks

CASES = [name for name in fsdp2_run.CASES if name != "zero"]


def results(ranks: int, folder: Path) -> dict[str, Any]:
    run_ranks(ranks, fsdp2_run.__file__, str(folder / "result.pt"))
    return torch.load(folder / "result.pt", weights_only=True)  # type: ignore[no-any-return]


def assert_alike(found: dict[str, Any], name: str, rule: str) -> None:
    """Require what DeepSpeed's stage 0 gives: in fp32 to rounding, in bf16 from equal weights on."""
    one, other = found[f"zero, {rule}, fp32"], found[f"{name}, {rule}, fp32"]
    assert other["norms"] == pytest.approx(one["norms"], rel=1e-6)
    for state in ("weights", "average", "fixed"):
        assert list(other[state]) == list(one[state])
        for key, value in one[state].items():
            torch.testing.assert_close(other[state][key], value, rtol=0, atol=2e-6)
    coarse, rough = found[f"zero, {rule}, bf16"], found[f"{name}, {rule}, bf16"]
    assert rough["norms"] == pytest.approx(coarse["norms"], rel=0.02)
    if rule == "adamw":
        assert rough["norms"] == pytest.approx(rough["plain"], rel=1e-6)
    assert all(torch.equal(rough["fixed"][key], value) for key, value in coarse["fixed"].items())


def assert_owned_once(entry: dict[str, Any]) -> None:
    """Require every number to be written by one rank, and every rank to hold what a plan says."""
    assert entry["sizes"] == entry["said"]
    seen = {name: torch.zeros(value.numel()) for name, value in entry["weights"].items()}
    for shards in entry["owned"]:
        for name, start, stop in shards:
            seen[name][start:stop] += 1
    assert all((count == 1).all() for count in seen.values())


@pytest.mark.multiprocess
def test_two_ranks_train_odd_rows_as_deepspeed_does(tmp_path: Path) -> None:
    found = results(2, tmp_path)
    for rule in ("adamw", "muon"):
        for name in ("2", "3", "micro", "last"):
            assert_alike(found, name, rule)
            assert_owned_once(found[f"{name}, {rule}, fp32"])


@pytest.mark.full
@pytest.mark.multiprocess
def test_four_ranks_and_two_replicas_train_odd_rows_as_deepspeed_does(tmp_path: Path) -> None:
    found = results(4, tmp_path)
    for rule in ("adamw", "muon"):
        for name in CASES:
            assert_alike(found, name, rule)
            assert_owned_once(found[f"{name}, {rule}, fp32"])
    held = found["replicas, adamw, fp32"]["owned"]
    written = [sum(stop - start for _, start, stop in shards) for shards in held]
    assert abs(written[0] - written[2]) <= 1  # replicas of the same rows write even parts of them
    assert abs(written[1] - written[3]) <= 1


@pytest.mark.parametrize("name", ["2", "3", "micro", "last"])
@pytest.mark.parametrize("rule", ["adamw", "muon"])
def test_one_rank_trains_odd_rows_as_deepspeed_does(world: World, name: str, rule: str) -> None:
    found = {
        f"{case}, {rule}, {precision}": fsdp2_run.result(
            world, {**fsdp2_run.CASES[case], "rule": rule, "precision": precision}
        )
        for case in ("zero", name)
        for precision in ("fp32", "bf16")
    }
    assert_alike(found, name, rule)


@pytest.mark.parametrize("stage", [2, 3])
def test_gradients_are_shown_before_ranks_add_them_up(world: World, stage: int) -> None:
    engine, plain, seen = make(world, kind="fsdp2", zero_stage=stage), OddNet(world), dict[str, Tensor]()
    plain.load_state_dict({**engine.full_state(), **_frozen(engine.fixed())})
    (x,) = samples(world, 0, 0)
    plain(x).square().sum().backward()
    before = [flat.detach().clone() for flat in engine.masters]
    with dry_step(engine, seen.__setitem__):
        engine.backward(engine(x).square().sum())
    trained = {name: p for name, p in plain.named_parameters() if p.requires_grad}
    assert seen.keys() == trained.keys()
    for name, p in trained.items():
        assert p.grad is not None
        torch.testing.assert_close(seen[name], p.grad)
    fresh = make(world, kind="fsdp2", zero_stage=stage)
    assert all(map(torch.equal, before, engine.masters))
    assert train(engine, world)[0] == train(fresh, world)[0]  # and nothing of the dry step remains
    seen.clear()
    engine.backward(engine(x).square().sum())
    assert seen == {}


def _frozen(fixed: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix("frozen/"): value for name, value in fixed.items()}


def test_masters_are_plain_tensors_and_the_rows_themselves(world: World) -> None:
    engine = make(world, kind="fsdp2", zero_stage=3, rule="muon")
    assert all(type(flat) is Tensor and flat.dtype == torch.float32 for flat in engine.masters)
    for state in engine.moments().values():
        assert all(type(flat) is Tensor for flat in state)
    with torch.no_grad():
        for flat in engine.masters:
            flat.fill_(2.0)
    engine.refresh()
    whole = {name: p.full_tensor() for name, p in engine.module.named_parameters()}  # type: ignore[operator]
    assert all(bool((whole[name] == 2.0).all()) for name in engine.trainable_shapes())


def test_a_step_after_a_pass_that_was_not_the_last_is_an_error(world: World) -> None:
    engine = make(world, kind="fsdp2", zero_stage=2, reduce="last")
    engine.backward(engine(samples(world, 0, 0)[0]).sum(), is_last=False)
    with pytest.raises(RuntimeError, match="was not said to be its last"):
        engine.step(1e-3)


class Number(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer, self.scale = nn.Linear(2, 2), nn.Parameter(torch.tensor(1.0))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Linear(2, 2) for _ in range(2))
        self.blocks[1].weight = self.blocks[0].weight


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        (Number, "scale is a single number, which has no rows to share out"),
        (Tied, r"blocks\.1\.weight is also blocks\.0\.weight, and the two are gathered at different times"),
    ],
)
def test_what_has_no_rows_of_its_own_is_refused_by_name(
    world: World, network: type[nn.Module], reason: str
) -> None:
    config = EngineConfig(kind="fsdp2", zero_stage=2, device="cpu")
    with pytest.raises(UserError, match=f"^kind=fsdp2: expected deepspeed: {reason}$"):
        make_engine(network(), config, OptimizerConfig(), world)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "fsdp2"}, "zero_stage=1: expected 2, 3 or auto with kind=fsdp2"),
        ({"kind": "fsdp2", "zero_stage": 0}, "zero_stage=0: expected 2, 3 or auto with kind=fsdp2"),
        (
            {"kind": "fsdp2", "zero_stage": 2, "gradient_dtype": "bf16"},
            "gradient_dtype=bf16: expected fp32 with kind=fsdp2",
        ),
        ({"shard_ranks": 4}, "shard_ranks=4: expected 0 with kind=deepspeed, or kind=fsdp2"),
        ({"reduce": "last"}, "reduce=last: expected each with kind=deepspeed, or kind=fsdp2"),
    ],
)
def test_settings_of_another_kind_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=f"^{message}$"):
        EngineConfig(**fields)


def test_the_ranks_of_a_node_share_the_state() -> None:
    def copy(asked: int, ranks: int, on_node: int) -> int:
        return EngineConfig(kind="fsdp2", zero_stage=2, shard_ranks=asked).copy_ranks(ranks, on_node)

    assert copy(0, 16, 8) == 8
    assert copy(4, 16, 8) == 4
    assert copy(0, 12, 8) == 12  # nodes of unequal size
    with pytest.raises(UserError, match=r"^shard_ranks=3: expected a divisor of the number of ranks, 16$"):
        copy(3, 16, 8)


def test_more_ranks_share_the_state_where_nothing_is_asked_for() -> None:
    def copies(ranks: int, on_node: int, **fields: Any) -> list[int]:
        engine = EngineConfig(**{"zero_stage": "auto", **fields})
        return [each.shard_ranks for each in engine.by_copies(ranks, on_node)]

    assert copies(48, 8, kind="fsdp2") == [0, 16, 24, 48]
    assert copies(8, 8, kind="fsdp2") == copies(12, 8, kind="fsdp2") == [0]
    assert copies(48, 8, kind="fsdp2", shard_ranks=16) == [16]
    assert copies(48, 8, kind="fsdp2", zero_stage=3) == [0]
    assert copies(48, 8) == [0]


def test_padding_is_what_the_first_rank_has_more(world: World) -> None:
    engine = make(world, kind="fsdp2", zero_stage=3)
    numbers = sum(math.prod(shape) for shape in engine.trainable_shapes().values())
    assert sum(flat.numel() for flat in engine.masters) == numbers  # of one rank: none
