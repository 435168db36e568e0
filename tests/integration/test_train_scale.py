"""The job `train` where ranks share tokens, recompute or compile."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.tiny_run import command, finish, make_autoencoder, make_latents, rows

pytestmark = pytest.mark.multiprocess
FIELDS = ("trainer.steps=4", "optimizer.lr=0.02", "engine.precision=fp32")


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    make_autoencoder(folder / "autoencoder")
    return make_latents(folder / "latents", folder / "autoencoder")


@pytest.fixture(scope="module")
def one_rank(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained(cache, tmp_path_factory.mktemp("runs") / "one")[0]


def trained(cache: Path, run: Path, *fields: str) -> tuple[Path, str]:
    status, output = finish(command(cache, run, *FIELDS, *fields))
    assert status == 0, output
    return run, output


def assert_same_steps(one: Path, other: Path) -> None:
    for a, b in zip(rows(one), rows(other), strict=True):
        assert all(a[name] == b[name] for name in ("step", "lr", "tokens", "samples"))
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
    assert (one / "finished.json").read_text() == (other / "finished.json").read_text()


def test_two_ranks_that_share_tokens_take_the_steps_of_one(
    cache: Path, one_rank: Path, tmp_path: Path
) -> None:
    fields = ("processes=2", "engine.sequence_parallel=2", "engine.activation_checkpointing=every_k")
    assert_same_steps(one_rank, trained(cache, tmp_path / "run", *fields)[0])


def test_a_group_that_ranks_cannot_form_is_refused(cache: Path, tmp_path: Path) -> None:
    fields = ("processes=2", "engine.sequence_parallel=3", "engine.device=cpu")
    status, output = finish([*command(cache, tmp_path / "run", *fields), "--dry-run"])
    assert status == 2
    assert "engine.sequence_parallel=3: expected a divisor of the number of ranks, 2" in output


@pytest.mark.full
def test_a_compiled_run_takes_the_same_steps_and_compiles_nothing_later(
    cache: Path, one_rank: Path, tmp_path: Path
) -> None:
    fields = ("processes=2", "engine.compile=true", "engine.zero_stage=2", "engine.micro_batch=3")
    run, output = trained(cache, tmp_path / "run", *fields)
    assert_same_steps(one_rank, run)
    assert "compiled 4 graphs for 4 shapes" in output
    assert "compiled 0 graphs after the first step began" in output
