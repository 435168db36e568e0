"""Scores side by side: equal rulers are ranked, different ones refused by field, subjects are columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.errors import UserError
from tools import compare

RULER = {"extractor": "inception", "samples": {"images": {"count": 500, "files": "npz"}}}
SUBJECT = {"checkpoint": "step-00000100.0", "sampler": {"solver": "euler", "steps": 50}}


def write(folder: Path, scores: dict[str, Any], ruler: Any = RULER, subject: Any = SUBJECT) -> str:
    folder.mkdir(parents=True)
    records = {"ruler": ruler, "subject": subject} if ruler is not None else {}
    (folder / "scores.json").write_text(json.dumps({**scores, **records, "heldout_unseen": True, "of": {}}))
    return str(folder)


def test_equal_rulers_are_ranked_and_subjects_shown(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    a = write(tmp_path / "a", {"fid": 12.5, "precision": 0.7, "images": 500})
    other = {**SUBJECT, "sampler": {"solver": "dpmpp_2m", "steps": 50}}
    b = write(tmp_path / "b/scores", {"fid": 11.25, "precision": 0.6, "images": 500}, subject=other)
    compare.run(compare.Config(source=(a, str(tmp_path / "b"))))
    lines = {line.split()[0]: line.split()[1:] for line in capfd.readouterr().out.splitlines()}
    assert lines["fid"] == ["12.5", "11.25", "*"]
    assert lines["precision"] == ["0.7", "*", "0.6"]
    assert lines["images"] == ["500", "500"]
    assert lines["sampler.solver"] == ["euler", "dpmpp_2m"]
    assert "checkpoint" not in lines
    assert b.endswith("scores")


def test_different_rulers_are_shown_but_not_ranked(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    a = write(tmp_path / "a", {"fid": 12.5})
    ruler = {**RULER, "samples": {"images": {"count": 600, "files": "jpeg"}}}
    b = write(tmp_path / "b", {"fid": 11.25}, ruler)
    with pytest.raises(
        UserError, match=r"rank nothing: samples\.images\.count is 500 in .* and 600 in .*files is npz"
    ):
        compare.run(compare.Config(source=(a, b)))
    out = capfd.readouterr().out
    assert "12.5" in out
    assert "*" not in out


def test_what_says_no_ruler_or_is_no_evaluation_is_refused(tmp_path: Path) -> None:
    a, old = write(tmp_path / "a", {"fid": 1}), write(tmp_path / "old", {"fid": 1}, None)
    with pytest.raises(UserError, match="old does not say by what it was measured"):
        compare.run(compare.Config(source=(a, old)))
    with pytest.raises(UserError, match=r"source=.*nothing: expected a folder with scores\.json"):
        compare.run(compare.Config(source=(a, str(tmp_path / "nothing"))))
    with pytest.raises(UserError, match="at least two folders"):
        compare.Config(source=(a,))
