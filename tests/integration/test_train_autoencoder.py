"""The autoencoder's job as a person runs it: from shards to a scored autoencoder, on two ranks."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from models.autoencoder.store import fingerprint, load
from tests.data.raw_datasets import make_raw
from tests.integration.tiny_run import finish, finish_ranks, rows
from tests.tools.train_autoencoder.test_job import FIELDS

pytestmark = pytest.mark.multiprocess
STEPS = 6


def test_it_learns_scores_publishes_and_goes_on_where_it_stopped(tmp_path: Path) -> None:
    dataset, run = make_raw(tmp_path), tmp_path / "run"
    more = (
        f"trainer.steps={STEPS}",
        "optimizer.lr=0.01",
        "ema.decay=0.5",
        "engine.device=cpu",
    )
    places = ["train-autoencoder", str(dataset.folder), f"output={run}"]
    words = [sys.executable, "-m", "launch", *places, *FIELDS, *more]
    status, output = finish([*words, "processes=2"])
    assert status == 0, output
    found = rows(run)
    assert len(found) == STEPS
    assert float(str(found[-1]["loss"])) < float(str(found[0]["loss"]))
    identity, scores = fingerprint(run), json.loads((run / "autoencoder" / "scores.json").read_text())
    assert scores["psnr_db"] > 3
    assert load(run).config.width == 8
    assert (run / "reconstructions.png").read_bytes()[:4] == b"\x89PNG"

    (status, output), (other, _) = finish_ranks(2, words)
    assert status == other == 0
    assert "is finished" in output

    shutil.rmtree(run / "autoencoder")  # as if it had been killed before the last step
    (status, output), (other, _) = finish_ranks(2, words)
    assert status == other == 0, output
    assert fingerprint(run) == identity
    assert json.loads((run / "autoencoder" / "scores.json").read_text()) == scores
