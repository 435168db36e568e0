"""Columns of a table that are read, and their roles. Run: pytest tests/data/raw/test_roles.py"""

from __future__ import annotations

import pytest

from core.errors import UserError
from data.raw.annotations.roles import (
    MAY_MISS,
    NO_TEXT,
    NOTHING,
    USUAL,
    ColumnsConfig,
    by_role,
    is_nothing,
    looks_like,
    may_fill,
    plain,
    require_columns,
    role_of,
)

# Written out once more: to leave a name out of the lists drops the captions of users' tables.
NAMES = {
    "path": "path file_name image video image_path video_path media_path media file_path image_file_name "
    "video_file_name jpg jpeg png webp mp4 webm gif",
    "text": "text caption captions prompt cap txt",
    "label": "label",
    "class": "class class_name category cls",
}
WORDS = (
    r"nan NaN NAN -nan -NaN 1.#QNAN -1.#IND <NA> NA N/A n/a #NA None NULL null \N undefined [] {} () [None] "
    """[nan] '' "" #N/A #NULL! #REF! #VALUE! #NAME? #DIV/0! #NUM!"""
)
PROGRAMS = (
    "py pyc pyd so dll exe sh js svg pickle pkl pt pth ckpt bin npy npz safetensors "
    "aae dvc lrprev md5 sha1 sha256"
)


def test_names_are_those_that_are_promised() -> None:
    assert {role: " ".join(names) for role, names in USUAL.items()} == NAMES
    assert {*WORDS.split(), "#N/A N/A"} == NOTHING
    assert set(PROGRAMS.split()) == NO_TEXT
    assert MAY_MISS == ("text", "label")


@pytest.mark.parametrize(("role", "names"), NAMES.items())
def test_every_usual_name_has_its_role_however_it_is_written(role: str, names: str) -> None:
    for name in names.split():
        for written in (name, name.upper(), name.replace("_", "-"), f" {name} ", f"\ufeff{name}"):
            assert role_of(written) == role, written
    assert role_of("width") is None


def test_named_columns_take_the_place_of_the_usual_ones() -> None:
    columns = ColumnsConfig(text="Long Caption", label="kind")
    assert role_of("long_caption", columns) == "text"
    assert role_of("caption", columns) is None
    assert role_of("kind", columns) == "label"
    assert role_of("class", columns) is None  # a label that is named is the class too
    assert role_of("path", columns) == "path"
    assert role_of("class", ColumnsConfig(text="alt")) == "class"
    assert columns.given() == {"text": "Long Caption", "label": "kind"}


def test_of_several_fields_the_usual_order_decides_and_empty_ones_count_for_nothing() -> None:
    row = {"prompt": "p", "caption": " ", "text": "t", "cap": None, "label": 0, "image": "a.png", "width": 3}
    assert by_role(row) == {
        "path": [("image", "a.png")],
        "text": [("text", "t"), ("prompt", "p")],
        "label": [("label", 0)],
        "class": [],
    }
    assert by_role({"other": "x", "text": "t"}, ColumnsConfig(text="other"))["text"] == [("other", "x")]


@pytest.mark.parametrize("value", [None, float("nan"), "", "  ", *WORDS.split(), " null "])
def test_what_stands_for_nothing(value: object) -> None:
    assert is_nothing(value)


@pytest.mark.parametrize("value", [0, 0.0, False, "0", "nothing", "none of it", [], 1.5])
def test_what_is_something(value: object) -> None:
    assert not is_nothing(value)


def test_a_table_needs_a_path_and_what_is_named() -> None:
    require_columns("t.csv", ["path", "x"], ColumnsConfig())
    require_columns("t.csv", ["where", "x"], ColumnsConfig(path="where"))
    with pytest.raises(UserError, match=r"columns\.text=alt: expected a column of t\.csv; it has: path, ''"):
        require_columns("t.csv", ["path", ""], ColumnsConfig(text="alt"))
    with pytest.raises(UserError, match=r"t\.csv: the column 'path' is missing; it has: none \("):
        require_columns("t.csv", [], ColumnsConfig())
    with pytest.raises(UserError, match=r"the column 'path' is missing; it has: width, text \("):
        require_columns("t.csv", ["width", "text"], ColumnsConfig())
    with pytest.raises(UserError, match="the column 'A B' is there twice"):
        require_columns("t.csv", ["path", "a_b", "A B", "", ""], ColumnsConfig())


def test_several_columns_of_captions_are_named_with_a_plus() -> None:
    columns = ColumnsConfig(text="short + long")
    assert columns.texts == ("short", "long")
    assert columns.names_texts
    assert not ColumnsConfig(text="short").names_texts
    assert not ColumnsConfig().names_texts
    require_columns("t.csv", ["path", "short", "long"], columns)
    with pytest.raises(
        UserError, match=r"columns\.text=long: expected a column of t\.csv; it has: path, short"
    ):
        require_columns("t.csv", ["path", "short"], columns)
    with pytest.raises(UserError, match=r"columns\.label=kind: expected a column of t\.csv"):
        require_columns("t.csv", ["path"], ColumnsConfig(label="kind"))


def test_unread_columns_that_may_be_meant() -> None:
    for name in ("long_caption", "my_prompt", "description", "alt", "tags", "tag", "caps", "sentence"):
        assert looks_like("text", name), name
    for name in ("salt", "stage", "width"):
        assert not looks_like("text", name), name
    assert looks_like("label", "Species")
    assert looks_like("label", "target")
    assert not looks_like("label", "targets", ["a cat", "a dog"])
    assert looks_like("text", "x", ["a cat", "dog", "a b c", None, " "])
    assert not looks_like("text", "x", ["a cat", "dog", 3])
    assert not looks_like("text", "x")
    assert plain("\ufeffA b_C-d") == "abcd"


def test_texts_are_looked_for_in_lists_and_objects_three_levels_deep() -> None:
    assert looks_like("text", "x", [["a cat", "dog"]])  # one sentence among the texts of a row is enough
    assert looks_like("text", "x", [{"turns": [{"value": "a cat"}]}])
    assert looks_like("text", "x", [[[["a cat"]]]])
    assert not looks_like("text", "x", [[[[["a cat"]]]]])


@pytest.mark.parametrize(
    ("values", "roles"),
    [
        ([], set()),
        ([None, " "], set()),
        (["1", "2.0", None], {"label"}),
        ([3, 4], {"label"}),
        (["1", "1.5"], set()),
        (["-1", "1e3"], set()),
        (["cat", "dog"], {"text", "label"}),
        (["1", "cat"], {"text", "label"}),
        (["a cat", "dog"], {"text", "label"}),  # no more than half are sentences
        (["a cat", "two dogs", "x"], {"text"}),
    ],
)
def test_what_stands_beside_names_of_pictures_may_be(values: list[object], roles: set[str]) -> None:
    assert may_fill(values) == roles
