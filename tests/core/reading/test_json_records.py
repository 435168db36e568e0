"""Many records at once are what each of them is. Run: pytest tests/core/reading/test_json_records.py"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from core.reading.json_records import bulk_reader
from core.reading.json_scalars import U16, FileName, Mismatch
from core.reading.json_schema import reader_of


@dataclass(frozen=True, kw_only=True)
class Record:
    name: FileName
    count: U16
    digest: str = ""

    def __post_init__(self) -> None:
        if self.count == 13:
            raise ValueError("13 is refused")


KINDS = {"name": FileName, "count": U16, "digest": str}
GOOD = [{"name": f"{n}.tar", "count": n, "digest": "d"} for n in range(5)]


def test_records_that_all_fit_are_read_at_once() -> None:
    quick = bulk_reader(Record, KINDS)
    assert quick is not None
    assert quick(GOOD) == [Record(**record) for record in GOOD]  # type: ignore[arg-type]
    assert reader_of(list[Record])(GOOD) == quick(GOOD)
    assert reader_of(tuple[Record, ...])([]) == ()


@pytest.mark.parametrize(
    ("bad", "place"),
    [
        ({"name": "a/b"}, ".name"),
        ({"count": 65536}, ".count"),
        ({"count": -1}, ".count"),
        ({"count": True}, ".count"),
        ({"count": 1.0}, ".count"),
        ({"count": 1 << 70}, ".count"),
        ({"count": 13}, ""),
        ({"digest": None}, ".digest"),
        ({"more": 1}, ""),
    ],
)
def test_one_that_does_not_fit_is_named(bad: dict[str, Any], place: str) -> None:
    quick, values = bulk_reader(Record, KINDS), [*GOOD[:3], {**GOOD[3], **bad}, GOOD[4]]
    assert quick is not None
    assert quick(values) is None
    with pytest.raises(Mismatch) as found:
        reader_of(list[Record])(values)
    assert "".join(reversed(found.value.place)) == f"[3]{place}"


def test_fields_that_are_left_out_and_other_values_are_read_one_by_one() -> None:
    quick = bulk_reader(Record, KINDS)
    assert quick is not None
    short = [*GOOD, {"name": "x", "count": 1}]
    assert quick(short) is quick([*GOOD, 1]) is quick([]) is None
    assert reader_of(list[Record])(short)[-1] == Record(name="x", count=1)
    assert bulk_reader(Record, {"name": FileName, "count": list[int]}) is None
    assert bulk_reader(Record, {"name": FileName}) is None
