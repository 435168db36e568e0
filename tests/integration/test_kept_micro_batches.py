"""A run on two ranks goes on with the micro-batches it began with, bit for bit, wherever it is killed."""

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
    assert "micro-batches are chosen anew: chosen for 2 ranks, and there are 1" in output
    for one, two in zip(rows(other), rows(whole), strict=True):
        assert one["loss"] == pytest.approx(two["loss"], rel=1e-4)
        assert one["samples"] == two["samples"]
