"""From the start of a process to its first step. Run: pytest tests/tools/bench/test_startup.py"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from core.errors import WorkError
from launch import cli
from tools.bench import startup


@pytest.mark.full
@pytest.mark.multiprocess
def test_both_ways_take_a_step_and_nothing_is_built(tmp_path: Path) -> None:
    assert cli.main(["bench", "startup", f"output={tmp_path}", "floors=false", "rounds=1"]) == 0
    (row,) = json.loads((tmp_path / "startup.json").read_text())["rows"]
    assert set(row["timings"]) == {"longtake", "the least script"}
    assert row["facts"] == {"calls of compilers": 0, "extensions built": 0}


def test_a_call_of_a_compiler_is_seen(tmp_path: Path) -> None:
    environment, called = startup._environment(tmp_path)
    program = "import subprocess; subprocess.run(['g++', '-c', 'x.cpp']); print('step', flush=True)"
    assert called() == []
    assert startup._is_step(startup._first_line([sys.executable, "-c", program], environment))
    assert called() == ["g++ -c x.cpp"]
    (tmp_path / "extensions" / "x").mkdir()
    (tmp_path / "extensions" / "x" / "x.so").touch()
    assert startup._built(environment) == 1


def test_a_process_that_takes_no_step_is_an_error(tmp_path: Path) -> None:
    environment, _ = startup._environment(tmp_path)
    with pytest.raises(WorkError, match=r"no step was taken.*broken"):
        startup._first_line([sys.executable, "-c", "raise SystemExit('broken')"], environment)
