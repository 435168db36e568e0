"""Columns of records: equal to parsing whole rows, whatever the rows are."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as some

from core.reading import record_columns as columns
from core.reading.decimals import LONGEST, numbers
from core.reading.record_columns import read_columns, rows_at
from core.records import Row, encode, iterate, number

NAMES = ("step", "loss", "grad_norm", "seconds", "applied", "absent")


def made(step: int, chance: random.Random, attempt: str = "local.1") -> Row:
    row: Row = {"step": step, "lr": 10 ** chance.uniform(-9, 0), "grad_norm": chance.uniform(0, 99)}
    row |= {"applied": chance.random() < 0.9, "seconds": chance.uniform(0, 3)}
    row["loss"] = chance.choice([chance.gauss(0, 1), None, math.nan, 1e300, 7, -0.5, 1e-7, 0.1 + 0.2])
    row["loss_by_decile"] = [chance.random(), None]
    if step % 10 == 0:
        row["ranks"] = {"slowest": {"rank": 1, "seconds": 17.0}, "straggler": None}
    return row | ({"attempt": attempt} if attempt else {})


def by_rows(path: Path) -> dict[str, list[float]]:
    rows = list(iterate(path))
    found = {name: [number(row, name) for row in rows] for name in NAMES}
    return {name: [math.nan if v is None else v for v in values] for name, values in found.items()}


def require_equal(path: Path) -> None:
    found, expected = read_columns(path, NAMES), by_rows(path)
    for name in NAMES:
        np.testing.assert_allclose(found.values[name], expected[name], rtol=1e-14, err_msg=name)


def written(path: Path, lines: list[bytes]) -> Path:
    path.write_bytes(b"".join(lines))
    return path


def test_columns_are_those_of_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "CHUNK", 5000)  # lines are cut by the pieces that are read
    chance = random.Random(1)
    lines = [encode(made(step, chance, f"local.{1 + step // 70}")) for step in range(1, 300)]
    path = written(tmp_path / "metrics.jsonl", lines)
    require_equal(path)
    found = read_columns(path, NAMES)
    assert found.attempts == [
        (0, "local.1"),
        (69, "local.2"),
        (139, "local.3"),
        (209, "local.4"),
        (279, "local.5"),
    ]
    assert [row["step"] for row in rows_at(path, found.starts[[3, 298]])] == [4, 299]


@pytest.mark.parametrize(
    "other",
    [
        b"no JSON\n",
        b'{"step": -1, "loss": 1.0}\n',
        b'{"step": 1.5}\n',
        b'{"step": 3, "loss": 1..5, "grad_norm": 2.0, "attempt": "local.1"}\n',
        b'{"loss":2.5,"step":4}\n',
        b'{"step": 4, "loss": "a \\"b\\" c", "grad_norm": [1]}\n',
        b'{"step": 4, "inner": {"loss": 8.0}, "grad_norm": 1.0}\n',
        b'{"step": 4, "loss": 12:5}\n',
        b'{"step": 4, "loss": 1e999}\n',
        b'{"step": 4, "loss": 123456789.25}\n',
        b"\n",
        b"\xff\xfe\n",
        b"x" * 9000 + b"\n",
        b'{"step": 9, "loss": 3.0',
    ],
)
def test_rows_of_another_form_are_parsed_as_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, other: bytes
) -> None:
    monkeypatch.setattr(columns, "CHUNK", 4096)
    monkeypatch.setattr(columns, "LONGEST_LINE", 8192)
    monkeypatch.setattr("core.records.LONGEST", 8192)
    chance = random.Random(2)
    lines = [encode(made(step, chance)) for step in range(1, 40)]
    require_equal(written(tmp_path / "metrics.jsonl", [*lines[:20], other, *lines[20:]]))
    require_equal(written(tmp_path / "first.jsonl", [other, *lines]))
    require_equal(written(tmp_path / "last.jsonl", [*lines, other]))


def test_rows_of_an_attempt_that_had_lost_the_run_are_left_out(tmp_path: Path) -> None:
    chance = random.Random(3)
    order = ["local.1", "local.2", "local.1", "local.2", "local.3", "local.2"]
    lines = [encode(made(step, chance, order[step // 5])) for step in range(30)]
    path = written(tmp_path / "metrics.jsonl", lines)
    require_equal(path)
    found = read_columns(path, NAMES)
    assert found.foreign == 10
    assert [name for _, name in found.attempts] == ["local.1", "local.2", "local.3"]


def test_an_absent_record_and_an_empty_one_have_no_rows(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_bytes(b"")
    for name in ("absent.jsonl", "empty.jsonl"):
        found = read_columns(tmp_path / name, NAMES)
        assert len(found) == 0
        assert found.attempts == []
        assert set(found.values) == set(NAMES)


def test_a_number_of_a_name_in_an_inner_object_is_not_taken(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [{"step": n, "ranks": {"loss": 5.0}, "seconds": 1.0} for n in range(9)]
    found = read_columns(written(tmp_path / "a.jsonl", [encode(row) for row in rows]), NAMES)
    assert np.isnan(found.values["loss"]).all()
    assert found.values["seconds"].tolist() == [1.0] * 9


@given(some.lists(some.floats() | some.integers(-(10**20), 10**20) | some.none(), min_size=1, max_size=30))
def test_any_number_is_read_as_python_reads_it(values: list[Any]) -> None:
    texts = [json.dumps(value) for value in values]
    data = ",".join(texts).encode()
    stops = np.cumsum([len(text) + 1 for text in texts]) - 1
    starts = np.append(0, stops[:-1] + 1)
    usual = [i for i, text in enumerate(texts) if text not in ("NaN", "Infinity", "-Infinity")]
    found, is_bad = numbers(data + b" " * 2 * LONGEST, starts[usual], stops[usual])
    assert not is_bad.any()
    expected = [math.nan if values[i] is None else float(values[i]) for i in usual]
    np.testing.assert_allclose(found, expected, rtol=1e-14)
