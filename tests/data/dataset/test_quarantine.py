"""The list of samples set aside. Run: pytest tests/data/dataset/test_quarantine.py"""

from __future__ import annotations

from pathlib import Path

import pytest

from core.errors import WorkError
from data.dataset.quarantine import Quarantine, read_quarantine


def test_quarantine_keeps_entries_once_and_across_processes(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    first = Quarantine(path, total=100, budget=3)
    second = Quarantine(path, total=100, budget=3)
    first.add("a.jpg", "decode", ValueError("cut\noff"))
    second.add("b.jpg", "decode", "bad")
    first.add("b.jpg", "decode", "bad")
    assert [e.id for e in first.entries] == ["a.jpg", "b.jpg"]
    assert first.entries[0].error == "cut off"
    assert read_quarantine(tmp_path) == first.entries


@pytest.mark.parametrize(("total", "budget", "allowed"), [(5, 0.1, 1), (5, 0, 0), (1, 0.1, 0)])
def test_one_bad_sample_does_not_stop_a_small_folder(
    tmp_path: Path, total: int, budget: float, allowed: int
) -> None:
    assert Quarantine(tmp_path / "quarantine.jsonl", total=total, budget=budget).allowed == allowed


@pytest.mark.parametrize(("budget", "allowed"), [(0, 0), (0.02, 2), (1, 1), (3, 3), (0.999, 99)])
def test_quarantine_budget_is_fraction_or_number(tmp_path: Path, budget: float, allowed: int) -> None:
    quarantine = Quarantine(tmp_path / "quarantine.jsonl", total=100, budget=budget)
    for number in range(allowed):
        quarantine.add(number, "decode", "bad")
    with pytest.raises(
        WorkError, match=f"{allowed + 1} of 100 samples .* budget of {allowed}; the last: x: decode: bad"
    ):
        quarantine.add("x", "decode", "bad")
    assert len(read_quarantine(tmp_path)) == allowed + 1


def test_half_written_quarantine_line_is_ended_not_joined(tmp_path: Path) -> None:
    path = tmp_path / "quarantine.jsonl"
    quarantine = Quarantine(path, total=10, budget=5)
    quarantine.add("a", "decode", "bad")
    with open(path, "ab") as file:
        file.write(b'{"id": "b", "sta')
    again = Quarantine(path, total=10, budget=5)
    again.add("c", "decode", "bad")
    assert [e.id for e in read_quarantine(tmp_path)] == ["a", "c"]
