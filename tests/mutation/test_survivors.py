"""Mutants of the modules that decide most which survive their tests.

Run: pytest tests/mutation/test_survivors.py

`survivors.json` lists them with the reason of each: mostly that they change nothing. One that is not listed
is a hole in the tests; one that is listed and no longer survives is to be taken out.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.mutation.check import ROOT, TESTS
from tests.mutation.mutants import mutants

LISTED: dict[str, dict[str, str]] = json.loads((Path(__file__).parent / "survivors.json").read_text())


def names(source: str) -> list[str]:
    return [mutant.name for mutant in mutants(source)]


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (
            "def f(a):\n    return a < 3",
            ["f: return a < 3 => return a <= 3", "f: return a < 3 => return a < 4"],
        ),
        ("n += k", ["module: n += k => n -= k"]),
        ("class A:\n    def b(self):\n        self.c()", ["A.b: self.c() => None"]),
        (
            "a = min(b) and c",
            [
                "module: a = min(b) and c => a = min(b) or c",
                "module: a = min(b) and c => a = max(b) and c",
            ],
        ),
        ("N = ('a', 'b')", ["module: N = ('a', 'b') => N = ('b',)", "module: N = ('a', 'b') => N = ('a',)"]),
        ("if done:\n    x = 1", ["module: if done: => if not done:", "module: x = 1 => x = 2"]),
        ("x = 0\nx = 0", ["module: x = 0 => x = 1", "module: x = 0 => x = 1 (no. 2)"]),
        ("s.most_common()", ["module: s.most_common() => s.items()", "module: s.most_common() => None"]),
        ("n: int = setting(3, 'help')", []),
        ("raise ValueError(1)", []),
        ("zip(a, b, strict=True)", ["module: zip(a, b, strict=True) => None"]),
        ("Role = Literal['a', 'b']", []),
    ],
)
def test_mutants_change_one_thing(source: str, expected: list[str]) -> None:
    assert sorted(names(source)) == sorted(expected)


def test_every_survivor_is_listed_with_a_reason() -> None:
    assert set(LISTED) <= set(TESTS)
    assert all(reason for listed in LISTED.values() for reason in listed.values())


@pytest.mark.full
@pytest.mark.parametrize("module", TESTS)
def test_no_other_mutant_survives(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.mutation.check", module], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["mutants"] > 5
    survived, listed = set(found["survivors"]), set(LISTED.get(module, {}))
    assert (sorted(survived - listed), sorted(listed - survived)) == ([], [])  # new ones, and gone ones
