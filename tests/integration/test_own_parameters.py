"""A run whose objective has parameters of its own, as a person starts, loses and uses it."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from core.checkpoint.reader import CheckpointReader
from core.checkpoint.tensor_file import load_tensors
from core.checkpoint.weights import find, load_weights
from core.errors import UserError
from core.train.single import OBJECTIVE
from tests.integration.test_train import FIELDS, state
from tests.integration.tiny_run import command, finish, rows

pytestmark = pytest.mark.multiprocess
LEARNED = (*FIELDS, "objective.weighting=learned", "engine.zero_stage=2", "processes=2")


@pytest.mark.full
def test_a_learned_weighting_is_continued_to_the_bit_and_never_exported(cache: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    status, output = finish(command(cache, whole, *LEARNED))
    assert status == 0, output
    fault = "save.commit@rank=0,step=10:kill"
    status, output = finish(command(cache, killed, *LEARNED), LONGTAKE_FAULT=fault)
    assert status == 128 + 9, output
    status, output = finish(command(cache, killed, *LEARNED))
    assert status == 0, output
    assert "continuing after step 5 " in output
    assert rows(killed) == rows(whole)
    assert state(killed) == state(whole)
    assert {"log_variance", "squared_error", "objective_grad_norm"} <= rows(whole)[0].keys()
    own = CheckpointReader(find(whole), OBJECTIVE)
    assert list(own.shapes) == ["parts.log_variance.linear.weight"]
    assert not any(kind.startswith("ema") for kind in own.kinds)
    assert bool(own.full("weight")["parts.log_variance.linear.weight"].any())
    status, output = finish(
        [sys.executable, "-m", "launch", "export", str(whole), f"output={tmp_path / 'out'}"]
    )
    assert status == 0, output
    assert load_tensors(tmp_path / "out" / "model.safetensors").keys() == load_weights(whole).keys()
    with pytest.raises(UserError, match="network"):
        load_weights(tmp_path / "out", network=OBJECTIVE)
