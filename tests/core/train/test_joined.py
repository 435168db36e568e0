"""An objective with parameters of its own, trained by the loss of the network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from core.checkpoint.reader import CheckpointReader
from core.checkpoint.weights import find, load_weights
from core.distributed.ranks import World
from core.draws import Draws
from core.optim.groups import learning_rate
from core.records import read_rows
from core.train.single import OBJECTIVE
from tests.core.ranks import finish, fork_ranks
from tests.core.toy_run import ToyModel, toy_batches
from tests.core.train.joined_run import OPTIMIZER, STEPS, JoinedObjective, Own, joined_trainer
from tests.core.train.test_trainer import rows

PROGRAM = "tests.core.train.joined_run"


def states(folder: Path) -> dict[str, Any]:
    """Return all tensors of a run's newest checkpoint."""
    readers = [CheckpointReader(find(folder), name) for name in ("", OBJECTIVE)]
    return {
        f"{reader.network}:{kind}/{name}": tensor
        for reader in readers
        for kind, tensors in {**{k: reader.full(k) for k in reader.kinds}, "fixed": reader.fixed()}.items()
        for name, tensor in tensors.items()
    }


def assert_equal_runs(a: Path, b: Path) -> None:
    assert rows(a) == rows(b)
    assert [row["step"] for row in rows(a)] == list(range(1, STEPS + 1))
    one, other = states(a), states(b)
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_both_are_trained_as_by_plain_torch(world: World, tmp_path: Path, stage: int) -> None:
    fields = {"zero_stage": stage, "precision": "fp32", "gradient_clipping": 0.0, "spike_sigma": 0.0}
    joined_trainer(tmp_path, world, micro_batch=4, **fields).fit()
    torch.manual_seed(0)
    network, own = ToyModel(), Own()
    trained = [p for p in (*network.parameters(), *own.parameters()) if p.requires_grad]
    optimizer = torch.optim.AdamW(
        trained, lr=OPTIMIZER.lr, betas=OPTIMIZER.betas, eps=OPTIMIZER.eps, weight_decay=0.0
    )
    for step, (batch,) in zip(range(STEPS), toy_batches(world, 0)(0), strict=False):
        losses = JoinedObjective(own).loss(network, batch, Draws(7, step, batch.id, batch.position))
        for p, gradient in zip(trained, torch.autograd.grad(losses.loss.mean(), trained), strict=True):
            p.grad = gradient
        optimizer.param_groups[0]["lr"] = learning_rate(OPTIMIZER, step, STEPS)
        optimizer.step()
    for name, plain in (("", network), (OBJECTIVE, own)):
        found = load_weights(tmp_path, "raw", name)
        for key, value in plain.named_parameters():
            torch.testing.assert_close(found[key], value.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.multiprocess
@pytest.mark.parametrize("stages", [(1, 3), pytest.param((0, 2), marks=pytest.mark.full)])
def test_a_killed_run_is_continued_exactly(tmp_path: Path, stages: tuple[int, int]) -> None:
    """Two ranks are killed while they save, and the run goes on to the bits of one that was not."""

    def run(name: str, stage: int, *more: str) -> list[str]:
        fields = ["dropout=0.2", "micro_batch=2", "validate_every=4", f"zero_stage={stage}"]
        return [f"--run={tmp_path / name}", *fields, *more]

    again: list[str] = []
    for stage in stages:
        killed = [*again, *run(f"killed-{stage}", stage, "fault=save.commit@rank=0,step=6:kill")]
        ended = finish(fork_ranks(2, tmp_path / f"out-{stage}", *killed, program=PROGRAM), timeout_s=300)
        assert -9 in {code for code, _ in ended}, ended
        again = run(f"killed-{stage}", stage)
    wholes = [word for stage in stages for word in run(f"whole-{stage}", stage)]
    ended = finish(fork_ranks(2, tmp_path / "out-last", *again, *wholes, program=PROGRAM), timeout_s=300)
    assert {code for code, _ in ended} == {0}, ended
    for stage, continued in zip(stages, (f"out-{stages[1]}", "out-last"), strict=True):
        said = (tmp_path / continued / "rank-0.txt").read_text()
        assert re.search("continuing after step 3 ", said)
        assert_equal_runs(tmp_path / f"whole-{stage}", tmp_path / f"killed-{stage}")
    one, other = (rows(tmp_path / f"whole-{stage}") for stage in stages)
    for a, b in zip(one, other, strict=True):
        assert a["loss"] == pytest.approx(b["loss"], rel=0.05)  # in bf16, summed in another order


def test_only_the_network_is_averaged_and_read(world: World, tmp_path: Path) -> None:
    joined_trainer(tmp_path, world, micro_batch=4).fit()
    reader = CheckpointReader(find(tmp_path), OBJECTIVE)
    assert set(reader.kinds) == {"weight", "exp_avg", "exp_avg_sq"}
    for which in ("raw", "ema"):
        model = ToyModel()
        model.load_state_dict(load_weights(tmp_path, which))
    assert {"objective_lr", "objective_grad_norm", "variance"} <= read_rows(tmp_path / "metrics.jsonl")[
        0
    ].keys()


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_trying_checking_and_validating_leaves_nothing_in_either(
    world: World, tmp_path: Path, stage: int
) -> None:
    fields = {"zero_stage": stage, "dropout": 0.2}
    joined_trainer(tmp_path / "tried", world, largest=True, check_every=2, validate_every=3, **fields).fit()
    joined_trainer(tmp_path / "plain", world, **fields).fit()
    assert_equal_runs(tmp_path / "tried", tmp_path / "plain")


def test_a_gradient_of_the_objective_alone_that_is_not_finite_skips_its_update_alone(
    world: World, tmp_path: Path
) -> None:
    trainer = joined_trainer(tmp_path, world, poison=4)
    trainer.fit()
    assert [row["step"] for row in rows(tmp_path) if not row["applied"]] == [5]
    assert [network.engine.updates for network in trainer.networks.values()] == [STEPS, STEPS - 1]
