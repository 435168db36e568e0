"""Muon equals torch's, however ZeRO cuts the matrices. Run: pytest tests/core/engine/test_sharded_muon.py"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import nn

from core.checkpoint.reader import CheckpointReader
from core.checkpoint.restore import resume
from core.checkpoint.store import CheckpointStore
from core.distributed.ranks import World, start
from core.engine.sharded_muon import MatrixExchange, MuonAdamW, owners_of
from core.engine.shards import Cut, Shard, require_cuts
from core.errors import UserError
from core.optim.groups import OptimizerConfig, parameter_groups
from core.optim.muon import newton_schulz
from models.autoencoder.kl import KLConfig
from tests.core import states_run, toy_run
from tests.core.engine.test_engine import train
from tests.core.ranks import run_ranks
from tests.core.toy_run import ToyModel, toy_engine, toy_trainer

STATES, TOY = states_run.__file__, toy_run.__file__
STAGES = (0, 1, 2, 3)
MUON = {"rule": "muon", "schedule": "constant"}


@pytest.fixture(scope="module")
def world() -> World:
    return start("cpu", 60)


@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (32, 32)])
def test_the_direction_has_equal_singular_values_and_the_same_vectors(shape: tuple[int, int]) -> None:
    matrix = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    direction = newton_schulz(matrix)
    left, _, right = torch.linalg.svd(matrix, full_matrices=False)
    values = left.T @ direction @ right.T
    assert 0.6 < float(values.diagonal().min()) <= float(values.diagonal().max()) < 1.3
    assert float((values - values.diagonal().diag()).abs().max()) < 1e-4


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_bitwise_equal_to_torch_in_bf16(weight_decay: float) -> None:
    torch.manual_seed(0)
    theirs = [nn.Parameter(torch.randn(shape)) for shape in ((40, 24), (24, 40))]
    flat = torch.cat([p.detach().flatten() for p in theirs]).requires_grad_()
    group = {
        "params": [flat],
        "names": ["a", "b"],
        "rule": "muon",
        "momentum": 0.9,
        "weight_decay": weight_decay,
    }
    ours = MuonAdamW([group], lr=0.02, fused=True)
    shards = [Shard("a", (40, 24), 0, 960, 0, 0), Shard("b", (24, 40), 0, 960, 0, 960)]
    cuts = [Cut(shard.name, shard.shape, 0, shard.offset, 1920) for shard in shards]
    ours.share_matrices([flat], shards, cuts, 0, 1, torch.bfloat16)
    ours.state[flat]["momentum"] = torch.zeros_like(flat, requires_grad=False)
    plain = torch.optim.Muon(
        theirs, lr=0.02, momentum=0.9, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
    )
    for _ in range(4):
        flat.grad = torch.randn_like(flat)
        for shard, p in zip(shards, theirs, strict=True):
            p.grad = shard.view([flat.grad]).view(p.shape).clone()
        ours.step()
        plain.step()
    for shard, p in zip(shards, theirs, strict=True):
        assert torch.equal(shard.view([flat]).view(p.shape), p.detach())


def test_a_kernel_is_updated_as_the_matrix_of_what_each_output_sees() -> None:
    updated = []
    for shape in ((8, 4, 3, 3, 3), (8, 108)):
        torch.manual_seed(0)
        flat = torch.randn(864).requires_grad_()
        group = {"params": [flat], "names": ["a"], "rule": "muon", "momentum": 0.9, "weight_decay": 0.0}
        rule = MuonAdamW([group], lr=0.02)
        held, cuts = [Shard("a", shape, 0, 864, 0, 0)], [Cut("a", shape, 0, 0, 864)]
        rule.share_matrices([flat], held, cuts, 0, 1, torch.float32)
        rule.state[flat]["momentum"] = torch.zeros_like(flat, requires_grad=False)
        flat.grad = torch.randn_like(flat)
        rule.step()
        updated.append(flat.detach())
    assert torch.equal(*updated)


def test_muon_takes_the_kernels_inside_an_autoencoder() -> None:
    groups = parameter_groups(KLConfig(width=8).build(), OptimizerConfig(name="muon"))
    taken = {name for group in groups if group.get("rule") == "muon" for name in group["names"]}
    assert "encoder.layers.0.conv_1.weight" in taken
    assert not [name for name in taken if name.split(".")[1] != "layers" or name.endswith("scale")]


def test_owners_share_the_work_and_the_first_of_equals_is_taken() -> None:
    shapes = {"d": (8, 8), "b": (8, 32), "c": (8, 32), "a": (8, 32)}
    assert owners_of(shapes, 2) == {"a": 0, "b": 1, "c": 0, "d": 1}
    assert owners_of(shapes, 8) == {"a": 0, "b": 1, "c": 2, "d": 3}


@settings(max_examples=100, deadline=None)
@given(
    shapes=st.lists(st.tuples(st.integers(1, 5), st.integers(1, 7)), min_size=1, max_size=6),
    ranks=st.integers(1, 9),
    together=st.booleans(),
)
def test_what_ranks_send_is_what_owners_expect(
    shapes: list[tuple[int, int]], ranks: int, together: bool
) -> None:
    """Of matrices cut one by one (ZeRO-3) or one after another (1 and 2): every number once, in one order."""
    numbers = [rows * columns for rows, columns in shapes]
    firsts = [sum(numbers[:place]) if together else 0 for place in range(len(shapes))]
    sizes = [-(-sum(numbers) // ranks) if together else -(-count // ranks) for count in numbers]
    cuts = [
        Cut(f"m{n}", shape, 0, first, size)
        for n, (shape, first, size) in enumerate(zip(shapes, firsts, sizes, strict=True))
    ]
    exchanges = []
    for rank in range(ranks):
        pieces = [(cut, *cut.piece(rank)) for cut in cuts]
        held = [Shard(cut.name, cut.shape, a, b, 0, 0) for cut, a, b in pieces if a < b]
        require_cuts(cuts, held, rank)
        exchanges.append(MatrixExchange(cuts, held, rank, ranks, torch.float32))
    owners = owners_of({cut.name: cut.shape for cut in cuts}, ranks)
    for owner, receiver in enumerate(exchanges):
        sent = [
            (sender, s.start, s.stop, s.name)
            for sender, one in enumerate(exchanges)
            for s in one._own
            if owners[s.name] == owner
        ]
        assert receiver._arriving == sent
        assert receiver._coming_sizes == [one._going_sizes[owner] for one in exchanges]
        for cut in receiver._mine:
            parts = [piece[1:3] for piece in sent if piece[3] == cut.name]
            assert [n for start, stop in parts for n in range(start, stop)] == [*range(math.prod(cut.shape))]


def test_what_a_rank_holds_otherwise_than_computed_is_named() -> None:
    with pytest.raises(
        RuntimeError, match=r"rank 1 holds \(0, 5, 10\) .* of a, and by arithmetic \(0, 6, 12\)"
    ):
        require_cuts([Cut("a", (3, 4), 0, 0, 6)], [Shard("a", (3, 4), 5, 10, 0, 0)], 1)


class PlainMuon:
    """torch's Muon for the two matrices and AdamW for the rest: fp32, one process."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        matrices = [model.first.weight, model.second.weight]
        rest = [model.embedding.weight, model.first.bias, model.second.bias]
        self.rules: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, weight_decay=0.0),
        ]

    def backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def step(self, lr: float) -> float:
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), 0.5)
        for rule in self.rules:
            for group in rule.param_groups:
                group["lr"] = lr
            rule.step()
            rule.zero_grad()
        return float(norm)


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_equals_torch(world: World, stage: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does in fp32, for which torch's iteration is replaced: it always computes in bf16."""
    monkeypatch.setattr("torch.optim._muon._zeropower_via_newtonschulz", lambda x, *_: newton_schulz(x))
    torch.manual_seed(0)
    model = ToyModel()
    norms = train(model, PlainMuon(model), world, 4, 4)
    engine = toy_engine(world, zero_stage=stage, precision="fp32", gradient_clipping=0.5, **MUON)
    assert [r.grad_norm for r in train(engine, engine, world, 4, 4)] == pytest.approx(norms, rel=1e-5)
    state = engine.full_state()
    for name, p in model.named_parameters():
        if p.requires_grad:
            torch.testing.assert_close(state[name], p.detach(), rtol=0, atol=5e-6, msg=name)


def run(count: int, folder: Path, jobs: list[list[Any]]) -> None:
    path = folder / f"jobs-{count}.json"
    path.write_text(json.dumps(jobs))
    run_ranks(count, STATES, str(path))


def saved(folder: Path, ranks: int, stage: int) -> str:
    return str(folder / f"step-00000002.ranks{ranks}-stage{stage}")


@pytest.mark.multiprocess
@pytest.mark.parametrize("ranks", [2, pytest.param(4, marks=pytest.mark.full)])
def test_all_stages_and_splits_agree_and_load_each_others_states(
    world: World, tmp_path: Path, ranks: int
) -> None:
    options = {"precision": "fp32", "micro_batch": 2, **MUON}
    states_run.perform(world, [["train", str(tmp_path / "alone"), 0, 6, options]])
    states_run.perform(world, [["save", saved(tmp_path, 1, stage), stage, "muon"] for stage in STAGES])
    trains = [["train", str(tmp_path / f"stage-{stage}"), stage, 6, options] for stage in STAGES]
    saves = [["save", saved(tmp_path, ranks, stage), stage, "muon"] for stage in STAGES]
    loads = [["load", saved(tmp_path, 1, stage), (stage + 1) % 4, "muon"] for stage in STAGES]
    run(ranks, tmp_path, [*trains, *saves, *loads])
    back = [["load", saved(tmp_path, ranks, stage), (stage + 2) % 4, "muon"] for stage in STAGES]
    states_run.perform(world, back)
    norms = json.loads((tmp_path / "alone.json").read_text())["norms"]
    weights = load_file(tmp_path / "alone.safetensors")
    for stage in STAGES:
        found = json.loads((tmp_path / f"stage-{stage}.json").read_text())["norms"]
        assert found == pytest.approx(norms, rel=1e-5)
        others = load_file(tmp_path / f"stage-{stage}.safetensors")
        for name, value in weights.items():
            torch.testing.assert_close(others[name], value, rtol=0, atol=1e-5)


@pytest.mark.multiprocess
def test_a_run_that_continues_is_bitwise_the_whole_one(tmp_path: Path) -> None:
    words = []
    for stage in (1, 3):
        fields = [f"zero_stage={stage}", "rule=muon", "schedule=constant", "save_every=2"]
        for name, steps in (("whole", 6), ("parts", 2), ("parts", 6)):
            words += [f"--run={tmp_path / f'{name}-{stage}'}", f"steps={steps}", *fields]
    run_ranks(2, TOY, *words)
    for stage in (1, 3):
        whole, parts = (_newest(tmp_path / f"{name}-{stage}") for name in ("whole", "parts"))
        assert "momentum" in whole.kinds
        for kind in whole.kinds:
            one, other = whole.full(kind), parts.full(kind)
            assert one.keys() == other.keys()
            assert all(torch.equal(one[name], other[name]) for name in one), kind


def test_moments_are_kept_for_those_that_have_them(world: World, tmp_path: Path) -> None:
    toy_trainer(tmp_path, world, steps=1, **MUON).fit()
    reader = _newest(tmp_path)
    assert list(reader.full("momentum")) == ["first.weight", "second.weight"]
    assert list(reader.full("exp_avg_sq")) == ["embedding.weight", "first.bias", "second.bias"]
    assert list(reader.full("weight")) == list(reader.shapes)


@pytest.mark.parametrize(("before", "after"), [("adamw", "muon"), ("muon", "adamw")])
def test_a_checkpoint_of_the_other_rule_is_refused(
    world: World, tmp_path: Path, before: str, after: str
) -> None:
    toy_trainer(tmp_path, world, steps=1, rule=before).fit()
    trainer = toy_trainer(tmp_path / "other", world, rule=after)
    with pytest.raises(UserError, match=r"holds no momentum|holds exp_avg of other parameters"):
        resume(CheckpointStore(tmp_path / "checkpoints"), trainer.networks)


def test_a_network_without_hidden_matrices_is_refused() -> None:
    with pytest.raises(UserError, match=r"^name=muon: expected adamw"):
        parameter_groups(nn.Linear(3, 3), OptimizerConfig(name="muon"))


def _newest(run: Path) -> CheckpointReader:
    path = CheckpointStore(run / "checkpoints").latest()
    assert path is not None
    return CheckpointReader(path)
