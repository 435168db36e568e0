"""Run: pytest tests/core/run/test_changes.py"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from core.config.settings import setting
from core.run.changes import changes


@dataclass(frozen=True, kw_only=True)
class Config:
    source: str = setting("", "where the data lie", role="place")


@pytest.mark.parametrize(
    ("before", "now", "is_same"),
    [
        ("runs/a", "runs/a/", True),
        ("runs/a", "./runs/b/../a", True),
        ("runs/a", str(Path("runs/a").absolute()), True),
        ("runs/a", "runs/b", False),
        ("", ".", False),  # nothing is no place
        (".", "", False),
        ("s3://bucket//x", "s3://bucket/x", False),  # two keys of a bucket, and no path
        ("s3://x", "s3:/x", False),
        ("s3:/x", "s3://x", False),
        ("s3://x", "s3://x", True),
    ],
)
def test_a_place_that_is_spelled_otherwise_has_not_moved(before: str, now: str, is_same: bool) -> None:
    found = changes({"source": before}, Config(source=now))
    assert [change.path for change in found] == ([] if is_same else ["source"])
