"""Labels as people and programs write them. Run: pytest tests/data/raw/test_label_values.py"""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest

from data.raw.ingest import Listing
from tests.data.raw.sources import listed, pictures


def of_one(folder: Path, label: Any, **rules: object) -> Listing:
    """List a picture whose row of JSON lines has this label."""
    row = json.dumps({"path": "0.png", "text": "a cat", "label": label})
    return listed(folder, {**pictures("0.png"), "m.jsonl": row}, **rules)


@pytest.mark.parametrize(
    ("label", "number", "name"),
    [
        ([3], 3, "3"),
        ("[3]", 3, "3"),
        (["cat"], 0, "cat"),
        ("['cat']", 0, "cat"),
        ([], -1, ""),
        ("[]", -1, ""),
        ("2020_12", 0, "2020_12"),  # which Python reads as a number
        ("1.000", 1, "1"),
        ("NA", -1, ""),
        ("#REF!", -1, ""),
    ],
)
def test_a_label_alone_is_read_out_of_its_list(tmp_path: Path, label: Any, number: int, name: str) -> None:
    (item,) = of_one(tmp_path, label).items
    assert (item.label, item.class_name, item.text, item.refused) == (number, name, "a cat", None)


@pytest.mark.parametrize(
    ("label", "reason"),
    [
        ("1,000", "'1,000' has marks of thousands or a fraction"),
        ("12 345", "'12 345' has marks of thousands"),
        ("1.234.567", "'1.234.567' has marks of thousands"),
        ([3, 4], "label holds 2 values"),
        ("['cat', 'dog']", "label holds 2 values"),
        ("[0, 1, 0]", "label holds 3 values"),
        ({"id": 3}, "label holds an object"),
        ('{"id": 3}', "label holds an object"),
        ("3\n4", "label is not one line of text"),
        ("\3\0\0\0", "label is not one line of text"),
    ],
)
def test_what_is_no_single_label_is_set_aside_or_packed_without(
    tmp_path: Path, label: Any, reason: str
) -> None:
    (item,) = of_one(tmp_path, label).items
    stage, said = item.refused or ("", "")
    assert stage == "label"
    assert reason in said
    (item,) = of_one(tmp_path, label, classes=False).items
    assert (item.refused, item.text, item.label) == (None, "a cat", -1)


def test_a_word_for_nothing_instead_of_a_label_is_counted(tmp_path: Path) -> None:
    assert any(line.startswith("1 x a word for nothing") for line in of_one(tmp_path, "NA").said)


def test_classes_that_differ_in_unicode_form_are_told(tmp_path: Path) -> None:
    names = [unicodedata.normalize(form, "café") for form in ("NFC", "NFD")]
    rows = "".join(f"{k}.png,{name}\n" for k, name in enumerate(names))
    listing = listed(tmp_path, {**pictures("0.png", "1.png"), "m.csv": f"path,label\n{rows}"})
    assert any("Unicode form alone stay apart" in line for line in listing.said)
