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
    with pytest.raises(
        UserError, match=r"source=.*nothing: expected a folder with scores\.json or evaluations\.jsonl"
    ):
        compare.run(compare.Config(source=(a, str(tmp_path / "nothing"))))
    with pytest.raises(UserError, match="at least two evaluations"):
        compare.plan(compare.Config(source=(a,)))


def test_scores_that_intervals_do_not_tell_from_the_best_are_marked(tmp_path: Path) -> None:
    values = {"a": (12.0, 0.3), "b": (12.5, 0.25), "c": (13.0, 0.3), "d": (12.1, None)}
    for name, (fid, half) in values.items():
        write(tmp_path / name, {"fid": fid} | ({} if half is None else {"fid_interval": half}))
    lines = compare.table(compare.read_all([str(tmp_path / name) for name in values]))
    assert lines[1].split() == ["fid", "12", "±0.3", "*", "12.5", "±0.25", "~", "13", "±0.3", "12.1"]
    assert "fid_interval" not in "".join(lines)
    assert lines[-1].startswith("* the best of its row; ~ its 95 % interval overlaps")


def evaluated(run: Path, rows: list[tuple[int, dict[str, Any]]], ruler: Any = RULER) -> str:
    run.mkdir()
    whole = [
        {"step": step}
        | {
            name: {"failed": "no memory"}
            if value is None
            else {"frechet": value, "ruler": ruler, "subject": {"weights": name}}
            for name, value in parts.items()
        }
        for step, parts in rows
    ]
    (run / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in whole))
    return str(run)


def test_rows_of_training_are_compared_by_average(tmp_path: Path) -> None:
    a = evaluated(tmp_path / "a", [(10, {"0.99": 3.0, "0.999": 4.0}), (20, {"0.99": 2.0, "0.999": 1.5})])
    b = evaluated(tmp_path / "b", [(20, {"0.99": 1.75, "0.999": None})])
    found = compare.read_all([a, f"{a}/evaluations.jsonl[10]", b])
    assert [(each.scores["frechet"], each.subject["step"]) for each in found] == [
        (2.0, 20),
        (1.5, 20),
        (3.0, 10),
        (4.0, 10),
        (1.75, 20),
    ]
    lines = {line.split()[0]: line.split()[1:] for line in compare.table(found)}
    assert lines["frechet"] == ["2", "1.5", "*", "3", "4", "1.75"]
    assert lines["step"] == ["20", "20", "10", "10", "20"]
    with pytest.raises(UserError, match=r"expected an evaluation of .*, which has the steps 10, 20"):
        compare.read(f"{a}/evaluations.jsonl[15]")
    other = evaluated(tmp_path / "c", [(20, {"0.99": 1.0})], {"extractor": "another"})
    with pytest.raises(UserError, match="rank nothing: extractor"):
        compare.run(compare.Config(source=(b, other)))
