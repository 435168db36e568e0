"""What our layer costs, measured on a real run. Run: pytest tests/tools/bench/test_engine.py"""

from __future__ import annotations

import json

import pytest

from launch import cli
from tools.bench import engine


def test_a_short_run_tells_our_part_of_a_step(tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "STEPS", 8)
    monkeypatch.setattr(engine, "WARM_UP", 2)
    assert cli.main(["bench", "engine", f"output={tmp_path}", "floors=false"]) == 0
    (row,) = json.loads((tmp_path / "engine.json").read_text())["rows"]
    whole, rest = (row["timings"][name]["seconds"] for name in ("longtake", engine.REST))
    assert len(whole) == 6
    assert all(0 < part < step for step, part in zip(whole, rest, strict=True))
    own = sorted(step - part for step, part in zip(whole, rest, strict=True))
    assert row["facts"]["our ms a step, least"] == pytest.approx(1e3 * own[0])
    assert row["floors"][0]["value"] == pytest.approx(1e3 * (own[2] + own[3]) / 2)
    assert [floor["floor"] for floor in row["floors"]] == [0.3, 0.02]


def test_the_stopwatch_counts_only_what_it_is_around():
    clock = engine.Stopwatch(engine.torch.device("cpu"))
    timed = clock.around(lambda a, b: a + b)
    assert timed(1, b=2) == 3
    first = clock.seconds
    assert first > 0
    timed(1, 1)
    assert clock.seconds > first
