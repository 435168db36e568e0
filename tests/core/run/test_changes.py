"""Run: pytest tests/core/run/test_changes.py"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from core.config.settings import setting
from core.errors import UserError
from core.run.changes import Change, changes, require_same

FROM, UNSAID = "what out was made from", "/old, with which out was made; nothing in it says what lay there"


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


@pytest.mark.parametrize(
    ("before", "now", "was", "found", "expected"),
    [
        ("", "/new", None, "", "source=/new: expected '', with which out was made"),
        ("/old", "", "a" * 64, "", f"source='': expected {FROM}, with hash={'a' * 12}; this has ''"),
        ("", "/new", "", "abc", f"source=/new: expected {FROM}, with hash=''; this has abc"),
        ("/old", "/new", None, "abc", f"source=/new: expected {UNSAID}"),
    ],
)
def test_empty_text_is_shown_and_what_is_not_recorded_is_not(
    before: str, now: str, was: str | None, found: str, expected: str
) -> None:
    asked = [Change("source", before, now, "place"), Change("step", "", "step-5", "result")]
    asked.append(Change("name", "a", "", "result"))
    also = "; and step=step-5: expected '', with which out was made; and name='': expected a, with which"
    with pytest.raises(UserError) as refusal:
        require_same(Path("out"), asked, (), lambda path: ({"hash": was}, {"hash": found}), str, "another")
    assert str(refusal.value).startswith(f"{expected}{also}")
