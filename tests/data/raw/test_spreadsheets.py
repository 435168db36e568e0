"""Tables as spreadsheets and data frames write them. Run: pytest tests/data/raw/test_spreadsheets.py"""

from __future__ import annotations

from pathlib import Path

import pytest

from data.raw.ingest import list_source
from tests.data.raw.sources import listed, pictures, place, told


def test_a_text_in_the_form_of_a_formula_is_that_text(tmp_path: Path) -> None:
    rows = 'path,text,label\n="0.png","=""a cat""",="001"\n'
    (item,) = listed(tmp_path, {**pictures("0.png"), "m.csv": rows}).items
    assert (item.name, item.text, item.label) == ("0.png", "a cat", 1)


def test_the_delimiter_may_be_declared_in_quotes(tmp_path: Path) -> None:
    files = {**pictures("0.png"), "m.csv": '"sep=;"\npath;text\n0.png;a cat, asleep\n'}
    assert told(listed(tmp_path, files)) == {"0.png": ("", "a cat, asleep")}


@pytest.mark.parametrize("word", ["#REF!", "#VALUE!", "#DIV/0!", "NA", "[]", "undefined"])
def test_errors_of_formulas_and_empty_lists_are_no_captions(tmp_path: Path, word: str) -> None:
    files = {**pictures("0.png", "1.png"), "m.csv": f"path,text\n0.png,{word}\n1.png,a cat\n"}
    listing = listed(tmp_path, files)
    assert told(listing) == {"0.png": ("", ""), "1.png": ("", "a cat")}
    assert any(line.startswith("1 x a word for nothing") for line in listing.said)


def test_times_that_python_cannot_hold_do_not_end_the_listing(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    place(tmp_path, pictures("0.png"))
    fine = pyarrow.array([1], pyarrow.timestamp("ns", "Nowhere/Else"))
    columns = {
        "path": ["0.png"],
        "text": ["a cat"],
        "fine": fine,
        "far": pyarrow.array([2**62], pyarrow.timestamp("us")),
        "day": pyarrow.array([1], pyarrow.date32()),
        "inner": pyarrow.array([[{"at": 1}]], pyarrow.list_(pyarrow.struct([("at", fine.type)]))),
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "m.parquet")
    assert told(list_source(tmp_path)) == {"0.png": ("", "a cat")}
