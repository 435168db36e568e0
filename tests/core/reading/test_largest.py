"""Files of gigabytes where a small one belongs: no more than a stated size of them is read."""

from __future__ import annotations

import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.errors import WorkError
from core.queue.failures import Failures
from core.queue.leases import Leases
from core.reading import json_files
from core.run.claim import job_of
from core.run.folder import CONFIG

GIB = 1 << 30


def make_hole(path: Path) -> Path:
    """Make a file of 4 GiB that takes no room on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    os.truncate(path, 4 * GIB)
    return path


def bytes_used(work: Callable[[], object]) -> int:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_json_is_refused_by_its_size(tmp_path: Path) -> None:
    path = make_hole(tmp_path / "dataset.json")

    def read() -> None:
        with pytest.raises((WorkError, OSError), match="larger than 1000 bytes"):
            json_files.read(path, dict[str, Any], 1000)

    assert bytes_used(read) < 1 << 20


def test_a_lease_and_a_failure_count_as_damaged(tmp_path: Path) -> None:
    make_hole(tmp_path / "a.000000.lease")
    make_hole(tmp_path / "b.failure.json")
    make_hole(tmp_path / "start")
    leases = Leases(tmp_path, timeout_s=60)
    states: list[Any] = []
    assert bytes_used(lambda: states.extend(leases.states())) < 1 << 20
    assert [state.owner for state in states] == ["unknown"]
    failures: list[Any] = []
    assert bytes_used(lambda: failures.extend(Failures(tmp_path).all())) < 1 << 26
    assert "damaged" in failures[0].errors[0]
    assert not failures[0].final


def test_the_name_of_a_job_is_looked_for_in_the_first_line(tmp_path: Path) -> None:
    make_hole(tmp_path / CONFIG)
    assert bytes_used(lambda: job_of(tmp_path)) < 1 << 20
    assert job_of(tmp_path) is None
