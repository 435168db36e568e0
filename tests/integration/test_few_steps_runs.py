"""Runs for samples of one to four steps, as a person trains, loses and samples them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.integration.test_train import state
from tests.integration.tiny_run import MODEL, STEP, finish, finish_ranks, rows

pytestmark = pytest.mark.multiprocess
FIELDS = ("trainer.steps=8", "trainer.save_every=3", "metrics.log_every=2", "validation.every=4")
FIELDS += ("validation.samples=16", "validation.strata=2", "ema.decay=0.5")
MEAN_FLOW = ("objective.kind=mean_flow", "model.two_times=true", "engine.micro_batch=4")
JVP = (*MEAN_FLOW, "model.attention=math")
DIFFERENCE = (*MEAN_FLOW, "objective.mean_flow.derivative=difference", "engine.precision=fp32")


def train(cache: Path, output: Path, *fields: str) -> list[str]:
    words = [sys.executable, "-m", "launch", "train", str(cache), f"output={output}"]
    return [*words, *MODEL, *STEP, *FIELDS, *fields]


def done(words: list[str]) -> str:
    status, output = finish(words)
    assert status == 0, output
    return output


def sampled(run: Path, output: Path, *fields: str) -> str:
    words = [sys.executable, "-m", "launch", "sample", str(run), f"output={output}", "count=4", "batch=4"]
    return done([*words, "device=cpu", *fields])


def done_by_two(words: list[str]) -> str:
    """Return what the first of two ranks said; both come to their end."""
    ended = finish_ranks(2, words)
    assert [status for status, _ in ended] == [0, 0], ended
    return ended[0][1]


def kill_and_continue(cache: Path, run: Path, *fields: str) -> None:
    ended = finish_ranks(2, train(cache, run, *fields), LONGTAKE_FAULT="save.commit@rank=0,step=6:kill")
    assert ended[0][0] == -9, ended
    assert "continuing after step 3 " in done_by_two(train(cache, run, *fields))


@pytest.mark.parametrize(
    ("fields", "stage"),
    [
        (JVP, "auto"),
        pytest.param(JVP, 1, marks=pytest.mark.full),
        pytest.param(JVP, 2, marks=pytest.mark.full),
        pytest.param((*JVP, "engine.kind=fsdp2"), "auto", marks=pytest.mark.full),
        pytest.param(DIFFERENCE, 3, marks=pytest.mark.full),
    ],
)
def test_a_mean_flow_is_continued_to_the_bit(
    cache: Path, tmp_path: Path, fields: tuple[str, ...], stage: int | str
) -> None:
    ranked = (*fields, f"engine.zero_stage={stage}")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done_by_two(train(cache, whole, *ranked))
    kill_and_continue(cache, killed, *ranked)
    assert rows(killed) == rows(whole)
    assert state(killed) == state(whole)
    assert "squared_error" in rows(whole)[0]
    said = sampled(whole, tmp_path / "samples", "sampler.steps=2")
    assert "solver=mean_flow, as objective.kind=mean_flow asks; 2 steps" in said


@pytest.mark.full
def test_a_run_is_distilled_by_one_that_begins_from_it(cache: Path, tmp_path: Path) -> None:
    done(train(cache, tmp_path / "teacher", "engine.zero_stage=1"))
    fields = (f"initial={tmp_path / 'teacher'}", "objective.kind=distillation", "engine.zero_stage=3")
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    done_by_two(train(cache, whole, *fields))
    kill_and_continue(cache, killed, *fields)
    assert rows(killed) == rows(whole)
    assert state(killed) == state(whole)
    said = sampled(whole, tmp_path / "samples", "sampler.steps=1")
    assert "solver=renoise, as objective.kind=distillation asks; 1 step" in said
    assert "lack up to half" not in said
    other = ("objective.kind=distillation", "objective.path=edm", "objective.prediction=edm", fields[0])
    status, output = finish(train(cache, tmp_path / "none", *other))
    assert status == 2
    assert "expected a run that this one can distil; they differ in path: " in output
    status, output = finish(train(cache, tmp_path / "none", "objective.kind=distillation"))
    assert status == 2
    assert "initial='': expected the run that is distilled" in output


@pytest.mark.full
@pytest.mark.parametrize("path", ["rectified_flow", "edm"])
def test_consistency_is_trained_from_data(cache: Path, tmp_path: Path, path: str) -> None:
    prediction = "flow" if path == "rectified_flow" else "edm"
    fields = (f"objective.path={path}", f"objective.prediction={prediction}", "objective.kind=consistency")
    done_by_two(train(cache, tmp_path / "run", *fields, "engine.zero_stage=3"))
    said = sampled(tmp_path / "run", tmp_path / "samples", "sampler.steps=4")
    assert "solver=renoise" in said
