"""The job `train` where ranks share tokens, recompute or compile."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from core.config.loading import load
from core.distributed.ranks import World
from core.errors import UserError
from core.run.folder import ATTENTION
from tests.integration.tiny_run import MODEL, STEP, command, finish, rows
from tests.tools.train.opened import load_data, open_checked
from tools.train.claimed_run import Data
from tools.train.config import Config
from tools.train.job import plan
from tools.train.network import micro_batch_shapes

FIELDS = ("trainer.steps=4", "optimizer.lr=0.02", "engine.precision=fp32")


@pytest.fixture(scope="module")
def one_rank(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(cache, tmp_path_factory.mktemp("runs") / "one")[0]


def config(cache: Path, *fields: str) -> Config:
    return load(
        Config, overrides=[f"source={cache}", f"output={cache.parent / 'run'}", *MODEL, *STEP, *fields]
    )


def data_of(settings: Config, rank: int = 0, ranks: int = 1) -> Data:
    world = World(rank, ranks, rank, torch.device("cpu"))
    return load_data(settings, open_checked(settings)[0], world)[0]


def trained(cache: Path, run: Path, *fields: str) -> tuple[Path, str]:
    status, output = finish(command(cache, run, *FIELDS, *fields))
    assert status == 0, output
    return run, output


def assert_same_steps(one: Path, other: Path) -> None:
    for a, b in zip(rows(one), rows(other), strict=True):
        assert all(a[name] == b[name] for name in ("step", "lr", "tokens", "samples"))
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
    assert (one / "finished.json").read_text() == (other / "finished.json").read_text()


@pytest.mark.multiprocess
@pytest.mark.full
def test_two_ranks_that_share_tokens_take_the_steps_of_one(
    cache: Path, one_rank: Path, tmp_path: Path
) -> None:
    fields = ("processes=2", "engine.sequence_parallel=2", "engine.activation_checkpointing=every_k")
    assert_same_steps(one_rank, trained(cache, tmp_path / "run", *fields)[0])


@pytest.mark.multiprocess
@pytest.mark.full
def test_a_ring_takes_the_steps_of_one_rank_by_a_kernel_that_it_keeps(cache: Path, tmp_path: Path) -> None:
    heads = ("model.heads=3", "model.width=24")
    one, _ = trained(cache, tmp_path / "one", *heads)
    ring = (*heads, "processes=2", "engine.sequence_parallel=2")
    run, output = trained(cache, tmp_path / "ring", *ring)
    assert "attention: by a ring, since 2 ranks cannot share 3 heads evenly" in output
    assert "attention: sdpa_flash for 64 tokens in a ring (auto)" in output
    assert_same_steps(one, run)
    recorded = json.loads((run / ATTENTION).read_text())
    assert set(recorded.values()) == {"sdpa_flash"}
    assert all(key.endswith("tokens in a ring") for key in recorded)
    named, output = trained(cache, tmp_path / "named", *ring, "model.attention=math")
    assert "attention: math for 64 tokens in a ring\n" in output
    assert_same_steps(one, named)


def test_a_group_that_ranks_cannot_form_is_refused_before_work_starts(cache: Path) -> None:
    with pytest.raises(UserError, match=r"engine.sequence_parallel=3: expected a divisor of .* ranks, 2"):
        plan(config(cache, "processes=2", "engine.sequence_parallel=3"))


def test_a_named_attention_that_a_ring_would_not_take_is_refused(cache: Path) -> None:
    fields = ("engine.sequence_parallel=3", "model.attention=sdpa")
    with pytest.raises(
        UserError,
        match=r"model.attention=sdpa: expected one of auto, math, .* since 2 heads cannot be shared",
    ):
        config(cache, *fields)
    assert config(cache, fields[0], "model.attention=sdpa_flash").model.attention == "sdpa_flash"
    assert config(cache, fields[1], "engine.sequence_parallel=2").model.attention == "sdpa"


def test_ranks_that_share_tokens_take_the_samples_of_one(cache: Path) -> None:
    engine = "engine.sequence_parallel=2"
    loaders = [data_of(config(cache, engine), rank, 4).loader for rank in range(4)]
    ids = [[batch.id.tolist() for batch in loader.load(3)] for loader in loaders]
    assert ids[0] == ids[1]
    assert ids[2] == ids[3]
    alone = data_of(config(cache)).loader.load(3)
    assert [a + b for a, b in zip(ids[0], ids[2], strict=True)] == [batch.id.tolist() for batch in alone]


def test_shapes_to_compile_are_those_of_all_steps(cache: Path) -> None:
    source, loader = data_of(config(cache, "engine.micro_batch=3"))
    met = {(len(b), *b.x.shape[2:]) for step in range(20) for b in loader.load(step)}
    assert len(met) == 4
    assert set(micro_batch_shapes(source, loader)) == met


@pytest.mark.multiprocess
@pytest.mark.full
def test_a_killed_run_continues_on_ranks_that_share_tokens(
    cache: Path, one_rank: Path, tmp_path: Path
) -> None:
    saves = ("trainer.save_every=2", "trainer.save_async=false")  # a save under way would be killed too
    words = command(cache, tmp_path / "run", *FIELDS, *saves, "engine.zero_stage=1")
    status, output = finish(words, LONGTAKE_FAULT="step.backward@rank=0,step=4:kill")
    assert status == -9, output  # one rank is the command itself
    fields = (*saves, "processes=2", "engine.sequence_parallel=2", "engine.zero_stage=3")
    run, output = trained(cache, tmp_path / "run", *fields)
    assert "continuing after step 2" in output
    assert_same_steps(one_rank, run)


@pytest.mark.multiprocess
@pytest.mark.full
def test_a_compiled_run_takes_the_same_steps_and_compiles_nothing_later(
    cache: Path, one_rank: Path, tmp_path: Path
) -> None:
    fields = ("processes=2", "engine.compile=true", "engine.zero_stage=2", "engine.micro_batch=3")
    run, output = trained(cache, tmp_path / "run", *fields)
    assert_same_steps(one_rank, run)
    assert "compiled 4 graphs for 4 shapes" in output
    assert "compiled 0 graphs after the first step began" in output
