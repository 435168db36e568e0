"""A kind of step with two networks that `core/train` does not know.

Run: pytest tests/core/train/test_two_networks.py
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import softplus

from core.batch import Batch
from core.checkpoint.reader import CheckpointReader
from core.checkpoint.weights import find, load_weights
from core.distributed.ranks import World
from core.draws import Draws
from core.engine.network import MAIN, Network, require_networks
from core.errors import UserError, WorkError
from core.optim.groups import learning_rate
from core.records import read_rows
from core.train.single import SingleStepper
from core.train.validation import ValidationConfig, make_validation
from tests.core.ranks import finish, fork_ranks
from tests.core.toy_run import STAGES, WIDTH, ToyObjective, toy_batches, toy_trainer
from tests.core.train.adversarial_run import OPTIMIZERS, STEPS, Net, adversarial_trainer
from tests.core.train.test_trainer import rows

PROGRAM = "tests.core.train.adversarial_run"
EXACT = ["step", "order_hash", "samples", "lr", "critic_lr", "applied"]


def run(folder: Path, *fields: str, fault: str = "") -> list[str]:
    return [
        f"--run={folder}",
        "dropout=0.2",
        "micro_batch=2",
        *fields,
        *([f"fault={fault}"] if fault else []),
    ]


def states(folder: Path) -> dict[str, Any]:
    """Return all tensors of a run's newest checkpoint, and its networks and step."""
    readers = [CheckpointReader(find(folder), name) for name in (MAIN, "critic")]
    found: dict[str, Any] = {}
    for reader in readers:
        kinds = {kind: reader.full(kind) for kind in reader.kinds} | {"fixed": reader.fixed()}
        found |= {
            f"{reader.network}:{kind}/{n}": t for kind, tensors in kinds.items() for n, t in tensors.items()
        }
    return found


def assert_equal_runs(a: Path, b: Path) -> None:
    assert rows(a) == rows(b)
    assert [row["step"] for row in rows(a)] == list(range(1, STEPS + 1))
    one, other = states(a), states(b)
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    first, second = (CheckpointReader(find(folder)).state() for folder in (a, b))
    for state in (first, second):
        del state["records"]  # the bytes of rows, which hold times
    assert {**first, "attempt": ""} == {**second, "attempt": ""}


@pytest.mark.multiprocess
def test_a_killed_run_of_two_networks_is_continued_exactly(tmp_path: Path) -> None:
    """On as many ranks it is to the bit; on another number with the same samples and draws, to rounding."""
    exact, fewer = tmp_path / "exact", tmp_path / "fewer"
    plain = ["precision=fp32", "dropout=0.0"]
    wholes = run(tmp_path / "whole"), run(tmp_path / "whole-fp32", *plain)
    starts = [
        (2, run(exact, fault="save.flush@rank=1,step=6:kill")),
        (2, [*run(exact), *wholes[0], *wholes[1]]),
        (2, run(fewer, *plain, fault="save.commit@rank=0,step=6:kill")),
        (1, run(fewer, *plain)),
    ]
    for number, (count, words) in enumerate(starts):
        output = tmp_path / f"out-{number}"
        ended = finish(fork_ranks(count, output, *words, program=PROGRAM), timeout_s=300)
        is_killed = any(word.startswith("fault") for word in words)
        assert (-9 in {code for code, _ in ended}) == is_killed, ended
        assert is_killed or {code for code, _ in ended} == {0}, ended
    assert re.search("continuing after step 3 ", (tmp_path / "out-1" / "rank-0.txt").read_text())
    assert re.search("continuing after step 3 ", (tmp_path / "out-3" / "rank-0.txt").read_text())
    assert_equal_runs(tmp_path / "whole", exact)
    for ours, theirs in zip(rows(tmp_path / "whole-fp32"), rows(fewer), strict=True):
        assert [ours[name] for name in EXACT] == [theirs[name] for name in EXACT]
        for name in ("critic_loss", "critic_grad_norm", "loss", "grad_norm"):
            assert (ours[name] is None) == (theirs[name] is None)
            assert ours[name] is None or ours[name] == pytest.approx(theirs[name], rel=1e-4)


@pytest.mark.parametrize("stage", STAGES)
def test_two_networks_are_trained_as_by_plain_torch(world: World, tmp_path: Path, stage: Any) -> None:
    """The generator's loss goes through the critic: a gradient left there would reach its updates."""
    fields = {"zero_stage": stage, "precision": "fp32", "gradient_clipping": 0.0, "spike_sigma": 0.0}
    adversarial_trainer(tmp_path, world, micro_batch=4, **fields).fit()
    torch.manual_seed(0)
    generator, critic = Net(5, WIDTH, 0.0), Net(WIDTH, 3, 0.0)
    optimizers = [
        torch.optim.AdamW(net.parameters(), lr=c.lr, betas=c.betas, eps=c.eps, weight_decay=0.0)
        for net, c in zip((generator, critic), OPTIMIZERS, strict=True)
    ]
    balance = 1.0
    for step, (batch,) in zip(range(STEPS), toy_batches(world, 0)(0), strict=False):
        latent = Draws(7, step, batch.id, batch.position).normal("latent", (5,))
        loss = softplus(-critic(batch.x)) + softplus(critic(generator(latent).detach()))
        norm = update(loss.mean(), critic, optimizers[1], learning_rate(OPTIMIZERS[1], step, STEPS))
        if step % 3:
            loss = (1 + balance) * softplus(-critic(generator(latent)))
            update(loss.mean(), generator, optimizers[0], learning_rate(OPTIMIZERS[0], step, STEPS))
        balance = 0.9 * balance + 0.1 * norm
    for name, network in ((MAIN, generator), ("critic", critic)):
        found = load_weights(tmp_path, "raw", name)
        for key, value in network.named_parameters():
            torch.testing.assert_close(found[key], value.detach(), rtol=1e-4, atol=1e-5)


def update(
    loss: torch.Tensor, network: torch.nn.Module, optimizer: torch.optim.Optimizer, lr: float
) -> float:
    """Update one network; return the norm of its gradient."""
    parameters = [p for p in network.parameters() if p.requires_grad]
    for p, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
        p.grad = gradient
    optimizer.param_groups[0]["lr"] = lr
    optimizer.step()
    return float(torch.stack([p.grad.norm() for p in parameters if p.grad is not None]).norm())


def test_rows_tell_each_network_by_its_name(world: World, tmp_path: Path) -> None:
    """The generator is not updated in the first, fourth and seventh step."""
    adversarial_trainer(tmp_path, world, micro_batch=4).fit()
    for row in read_rows(tmp_path / "metrics.jsonl"):
        alone = row["step"] % 3 == 1
        assert (row["loss"] is None, row["grad_norm"] is None, "judged" not in row) == (alone,) * 3
        assert {"critic_loss", "critic_true", "critic_grad_norm", "critic_lr", "lr"} <= row.keys()
        assert row["samples"] == 8.0
        assert "loss_by_decile" not in row


@pytest.mark.parametrize("stage", [0, 2, "fsdp2-2"])
def test_an_update_that_is_skipped_leaves_the_other_network_its_own(
    world: World, tmp_path: Path, stage: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = adversarial_trainer(tmp_path, world, poison=4, zero_stage=stage)
    trainer.fit()
    assert [row["step"] for row in rows(tmp_path) if not row["applied"]] == [5]
    updates = [network.engine.updates for network in trainer.networks.values()]
    assert updates == [5, STEPS - 1]
    (incident,) = read_rows(tmp_path / "incidents.jsonl")
    assert {one["network"] for one in incident["culprits"]} == {"critic"}
    assert "in the forward pass of loss of critic" in capsys.readouterr().err
    critic = trainer.networks["critic"].engine
    assert critic.module.calls.item() == 2 * STEPS + updates[0]  # searching is not counted


def test_one_network_that_is_always_skipped_ends_the_run(world: World, tmp_path: Path) -> None:
    """The run ends though the other network is updated in every step."""
    trainer = adversarial_trainer(tmp_path, world, max_skipped=2)
    trainer.stepper.balance = float("nan")  # type: ignore[attr-defined]
    with pytest.raises(WorkError, match="2 steps in a row had non-finite gradients, up to 3"):
        trainer.fit()


@pytest.mark.parametrize("stage", STAGES)
def test_trying_and_checking_leaves_nothing_in_either_network(
    world: World, tmp_path: Path, stage: Any
) -> None:
    fields = {"zero_stage": stage, "dropout": 0.2}
    adversarial_trainer(tmp_path / "tried", world, largest=True, check_every=2, **fields).fit()
    adversarial_trainer(tmp_path / "plain", world, **fields).fit()
    assert_equal_runs(tmp_path / "tried", tmp_path / "plain")


def test_a_bit_that_turns_over_in_another_network_ends_the_run(world: World, tmp_path: Path) -> None:
    trainer = adversarial_trainer(tmp_path, world, check_every=1)
    batches = trainer.data.batches

    def watched(first: int) -> Iterator[list[Batch]]:
        for number, parts in enumerate(batches(first), first):
            if number == 2:
                trainer.networks["critic"].engine.moments()["exp_avg"][0][0] += 1.0
            yield parts

    trainer.data = replace(trainer.data, batches=watched)
    with pytest.raises(WorkError, match="rank 0: critic:exp_avg 0 changed between two updates"):
        trainer.fit()


def test_a_checkpoint_of_other_networks_is_refused(world: World, tmp_path: Path) -> None:
    adversarial_trainer(tmp_path, world, steps=3).fit()
    state = json.loads((find(tmp_path) / "state.json").read_text())
    assert list(state["networks"]) == ["critic"]
    assert state["stepper"] == {"balance": pytest.approx(state["stepper"]["balance"])}
    with pytest.raises(UserError, match=r"this run trains the networks '' and .* holds '', 'critic'"):
        toy_trainer(tmp_path, world, steps=4).fit()
    with pytest.raises(UserError, match="network='judge': expected one of '', 'critic'"):
        load_weights(tmp_path, "raw", "judge")


def test_a_run_of_one_network_writes_no_word_of_several(world: World, tmp_path: Path) -> None:
    toy_trainer(tmp_path, world, steps=3).fit()
    state = json.loads((find(tmp_path) / "state.json").read_text())
    assert not {"networks", "stepper", "gradients"} & {*state, *CheckpointReader(find(tmp_path)).manifest}


def test_a_loss_that_goes_through_another_engine_by_itself_fails(world: World, tmp_path: Path) -> None:
    """Outside of a turn nothing keeps its gradient out of that engine's reduction."""
    stepper = adversarial_trainer(tmp_path, world).stepper
    made = stepper.generator(torch.ones(2, 5))  # type: ignore[attr-defined]
    with pytest.raises(RuntimeError, match="not supported"):
        stepper.generator.backward(stepper.critic(made).mean())  # type: ignore[attr-defined]


def test_a_kind_of_step_that_breaks_its_word_is_stopped(world: World, tmp_path: Path) -> None:
    trainer = adversarial_trainer(tmp_path, world)
    trainer.stepper.update = lambda step: None  # type: ignore[method-assign]
    with pytest.raises(RuntimeError, match=r"step 1 updated \[\], and its turns are \['critic'\]"):
        trainer.fit()
    engine = trainer.engine
    with pytest.raises(ValueError, match="expected one named ''"):
        require_networks({"critic": Network(engine)})
    with pytest.raises(ValueError, match="expected a name of a-z"):
        require_networks({MAIN: Network(engine), "A:b": Network(engine)})
    with pytest.raises(ValueError, match=r"parameter first\.weight of network 'b' is one of ''"):
        require_networks({MAIN: Network(engine), "b": Network(engine)})


def test_validation_without_a_loss_to_validate_is_refused(world: World, tmp_path: Path) -> None:
    class Unvalidated(SingleStepper):
        validated = None

    trainer = toy_trainer(tmp_path, world)
    stepper = Unvalidated(trainer.engine, ToyObjective())
    given = ValidationConfig(every=2), stepper.networks[MAIN], stepper.validated, list
    with pytest.raises(UserError, match="every=2: expected 0, since this kind of step"):
        make_validation(*given, folder=tmp_path)
