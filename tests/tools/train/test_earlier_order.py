"""Runs of versions without pieces keep their order. Run: pytest tests/tools/train/test_earlier_order.py"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.config.loading import dump, load
from core.config.yaml_files import HEADER
from core.errors import UserError
from core.run.claim import claim
from tools.train import config as train
from tools.train_autoencoder import config as train_autoencoder

USUAL, WHOLE = 2048, 0


def loaded(job: Any, output: Path, *more: str) -> Any:
    return load(job, overrides=["source=data", f"output={output}", *more])


@pytest.mark.parametrize("job", [train.Config, train_autoencoder.Config])
def test_the_order_that_a_run_was_begun_with_is_kept(job: Any, tmp_path: Path) -> None:
    """What a record without the field stands for is known to the command and to what compares them."""
    new = loaded(job, tmp_path / "run")
    assert new.data.shuffle_piece == USUAL
    claim(tmp_path / "run", new, done="done", overwrite=False)
    assert loaded(job, tmp_path / "run") == new

    record = tmp_path / "run" / "config.yaml"
    text = record.read_text()
    assert text == f"{HEADER}{job.job}\n{dump(new)}"
    record.write_text("".join(line for line in text.splitlines(True) if "shuffle_piece" not in line))
    kept = loaded(job, tmp_path / "run")
    assert kept.data.shuffle_piece == WHOLE
    assert claim(tmp_path / "run", kept, done="done", overwrite=False) == "continue"
    assert loaded(job, tmp_path / "run", "overwrite=true").data.shuffle_piece == USUAL
    with pytest.raises(UserError, match=r"^data.shuffle_piece=2048: expected 0, with which"):
        claim(
            tmp_path / "run",
            loaded(job, tmp_path / "run", "data.shuffle_piece=2048"),
            done="done",
            overwrite=False,
        )


def test_other_fields_that_follow_from_the_record_stay(tmp_path: Path) -> None:
    record = tmp_path / "config.yaml"
    record.write_text(f"{HEADER}train\ndata:\n  online:\n    precision: bf16\n")
    found = loaded(train.Config, tmp_path)
    assert (found.data.online.precision, found.data.shuffle_piece) == ("bf16", WHOLE)
