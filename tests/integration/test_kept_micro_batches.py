"""A run goes on with the micro-batches and the ZeRO stage it began with, bit for bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.integration.test_train import FIELDS, state
from tests.integration.tiny_run import command, finish, rows

pytestmark = [pytest.mark.multiprocess, pytest.mark.full]


def test_what_was_chosen_is_kept_and_another_number_of_ranks_chooses_anew(
    cache: Path, tmp_path: Path
) -> None:
    fields = (*FIELDS, "engine.zero_stage=1", "engine.precision=fp32")
    whole, run = tmp_path / "whole", tmp_path / "run"
    status, output = finish(command(cache, whole, *fields, "processes=2", "engine.micro_batch=2"))
    assert status == 0, output

    words = command(cache, run, *fields, "processes=2")
    status, output = finish(words, LONGTAKE_FAULT="step.data@rank=0,step=1:kill")
    assert status == 128 + 9, output
    record = run / "micro_batches.json"
    kept = json.loads(record.read_text())
    assert kept["ranks"] == 2
    for pair in kept["sizes"]["train"]:  # as a smaller machine would have chosen
        pair[1] = 2
    record.write_text(json.dumps(kept))

    status, output = finish(words, LONGTAKE_FAULT="step.data@rank=1,step=12:kill")
    assert status == 128 + 9, output
    status, output = finish(words)
    assert status == 0, output
    assert "continuing after step" in output
    assert "at most 2 at once" in output
    assert rows(run) == rows(whole)
    assert state(run) == state(whole)
    assert json.loads(record.read_text()) == kept

    other = tmp_path / "other"
    status, output = finish(
        command(cache, other, *fields, "processes=2"), LONGTAKE_FAULT="step.data@step=9:kill"
    )
    assert status == 128 + 9, output
    status, output = finish(command(cache, other, *fields))
    assert status == 0, output
    assert "micro-batches are chosen again: chosen for 2 ranks, and there are 1" in output
    for one, two in zip(rows(other), rows(whole), strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)
        assert one["samples"] == two["samples"]


def test_the_stage_that_was_chosen_is_kept_on_other_ranks_and_another_one_comes_by_name(
    cache: Path, tmp_path: Path
) -> None:
    fields = (*FIELDS, "engine.precision=fp32", "engine.micro_batch=2", "processes=2")
    whole, run = tmp_path / "whole", tmp_path / "run"
    status, output = finish(command(cache, whole, *fields, "engine.zero_stage=0"))
    assert status == 0, output
    auto = command(cache, run, *fields, "engine.zero_stage=auto")
    status, output = finish([*auto, "--dry-run"])
    assert status == 0, output
    assert "engine: ZeRO stage 0, the least that fits" in output
    assert not run.exists()
    status, output = finish(auto, LONGTAKE_FAULT="step.data@rank=1,step=9:kill")
    assert status == 128 + 9, output
    assert "engine: ZeRO stage 0, the least that fits" in output
    status, output = finish(auto)
    assert status == 0, output
    assert "engine: ZeRO stage 0, with which the run was begun" in output
    assert rows(run) == rows(whole)
    assert state(run) == state(whole)

    other = tmp_path / "other"
    begun = command(cache, other, *fields[:-1], "engine.zero_stage=auto")
    status, output = finish(begun, LONGTAKE_FAULT="step.data@step=5:kill")
    assert status == -9, output  # of the only rank itself
    assert "engine: ZeRO stage 0, since one rank has nothing to share out" in output
    auto = command(cache, other, *fields, "engine.zero_stage=auto")
    status, output = finish(auto, LONGTAKE_FAULT="step.data@rank=1,step=9:kill")
    assert status == 128 + 9, output
    assert "engine: ZeRO stage 0, with which the run was begun, chosen for 1 rank" in output
    status, output = finish(command(cache, other, *fields, "engine.zero_stage=3"))
    assert status == 0, output
    assert "engine: ZeRO stage 3, as asked for, and the run began with 0" in output
    for one, two in zip(rows(other), rows(whole), strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)
        assert one["samples"] == two["samples"]
