"""The training job as a person runs it: it learns, continues exactly, and is the same on other ranks."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from core.checkpoint.store import CheckpointStore
from tests.integration.tiny_run import command, finish, rows

pytestmark = pytest.mark.multiprocess
STEPS = 12
FIELDS = (f"trainer.steps={STEPS}", "trainer.save_every=5", "metrics.log_every=3", "optimizer.lr=0.02")


@pytest.fixture(scope="module")
def undisturbed(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    fields = (*FIELDS, "engine.zero_stage=1", "engine.precision=fp32", "processes=2")
    status, output = finish(command(cache, run, *fields))
    assert status == 0, output
    return run


def state(run: Path) -> dict[str, bytes]:
    """Return the tensors of the last checkpoint by file: weights, moments and averages of every rank."""
    last = CheckpointStore(run / "checkpoints").latest()
    assert last is not None
    return {path.name: path.read_bytes() for path in last.glob("*.safetensors")}


def kill_and_continue(cache: Path, run: Path, *fields: str) -> str:
    """Send SIGKILL to a random rank at a random place of a random step, then repeat the command.

    Return the place.
    """
    step, rank, place = (
        random.randint(1, STEPS),
        random.randrange(2),
        random.choice(["data", "backward", "end"]),
    )
    fault = f"step.{place}@rank={rank},step={step}:kill"
    status, output = finish(command(cache, run, *fields), LONGTAKE_FAULT=fault)
    assert status == 128 + 9, f"{fault}: {output}"
    status, output = finish(command(cache, run, *fields))
    assert status == 0, f"{fault}: {output}"
    # The save after step 5 is published while steps go on, for certain before the one after step 10 begins.
    if not 5 < step <= 10:
        assert ("continuing after step" in output) == (step > 10), f"{fault}: {output}"
    return fault


def test_the_run_has_learned_and_holds_what_sampling_needs(undisturbed: Path) -> None:
    losses = [float(str(row["loss"])) for row in rows(undisturbed)]
    assert len(losses) == STEPS
    assert sum(losses[-3:]) < 0.8 * sum(losses[:3])
    for name in ("config.yaml", "latents.json", "autoencoder/weights.safetensors", "finished.json"):
        assert (undisturbed / name).is_file()
    assert json.loads((undisturbed / "attention.json").read_text())


def test_a_killed_run_continues_bit_for_bit(cache: Path, undisturbed: Path, tmp_path: Path) -> None:
    fields = (*FIELDS, "engine.zero_stage=1", "engine.precision=fp32", "processes=2")
    fault = kill_and_continue(cache, tmp_path / "run", *fields)
    assert rows(tmp_path / "run") == rows(undisturbed), fault
    assert state(tmp_path / "run") == state(undisturbed), fault


@pytest.mark.full
@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_killed_run_continues_bit_for_bit_in_bf16(cache: Path, tmp_path: Path, stage: int) -> None:
    fields = (*FIELDS, f"engine.zero_stage={stage}", "engine.micro_batch=3", "processes=2")
    status, output = finish(command(cache, tmp_path / "whole", *fields))
    assert status == 0, output
    fault = kill_and_continue(cache, tmp_path / "killed", *fields)
    assert rows(tmp_path / "killed") == rows(tmp_path / "whole"), fault
    assert state(tmp_path / "killed") == state(tmp_path / "whole"), fault


def test_one_rank_with_micro_batches_takes_the_same_steps_to_rounding(
    cache: Path, undisturbed: Path, tmp_path: Path
) -> None:
    fields = (*FIELDS, "engine.zero_stage=0", "engine.precision=fp32", "engine.micro_batch=3")
    status, output = finish(command(cache, tmp_path / "run", *fields))
    assert status == 0, output
    for one, two in zip(rows(tmp_path / "run"), rows(undisturbed), strict=True):
        for name in ("step", "lr", "tokens", "samples"):
            assert one[name] == two[name]
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)
        pairs = list(zip(one["loss_by_decile"], two["loss_by_decile"], strict=True))
        assert all((a is None) == (b is None) for a, b in pairs)  # the same times were drawn
        assert [a for a, _ in pairs if a] == pytest.approx([b for _, b in pairs if b], rel=1e-3)


def test_a_finished_run_is_left_alone_and_another_config_is_refused(cache: Path, undisturbed: Path) -> None:
    fields = (*FIELDS, "engine.zero_stage=1", "engine.precision=fp32")
    before = {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")}
    status, output = finish(command(cache, undisturbed, *fields, "processes=1"))
    assert status == 0, output
    assert "is finished" in output
    status, output = finish(command(cache, undisturbed, *fields, "optimizer.lr=0.01"))
    assert status == 2
    assert "optimizer.lr=0.01: expected 0.02" in output
    assert {path: path.stat().st_mtime_ns for path in undisturbed.rglob("*")} == before
