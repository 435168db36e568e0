"""JSON by a schema: what fits comes back as its types, all else is one line with file, place and reason."""

from __future__ import annotations

import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.files import sealed, write_json
from core.reading import json_files
from core.reading.json_files import Malformed
from core.reading.json_scalars import BelowName, Count, FileName


class Pair(NamedTuple):
    left: int
    right: float


@dataclass(frozen=True)
class Part:
    name: FileName
    samples: Count = 0


class Record(TypedDict):
    kind: Literal["raw", "latent"]
    parts: tuple[Part, ...]
    pairs: NotRequired[dict[str, Pair | None]]
    files: NotRequired[dict[BelowName, bool]]


GOOD: dict[str, Any] = {"kind": "raw", "parts": [{"name": "a.tar"}]}


def test_what_fits_comes_back_as_the_types_of_the_schema(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({**GOOD, "pairs": {"é": [1, 2], "f": None}, "more": [1]}))
    assert json_files.read(path, Record) == {
        "kind": "raw",
        "parts": (Part("a.tar"),),
        "pairs": {"é": Pair(1, 2.0), "f": None},
        "more": [1],
    }


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[]", "a list of 0: expected an object"),
        ("{}", '"kind", "parts" are missing'),
        ({"kind": "video"}, 'kind="video": expected raw or latent'),
        ({"kind": True}, "kind=true: expected raw or latent"),
        ({"parts": {}}, "parts=an object: expected a list"),
        ({"parts": [{"name": "a"}, {}]}, 'parts[1]: "name" is missing'),
        ({"parts": [{"name": "a", "size": 1}]}, 'parts[0]: "size" is not known'),
        ({"parts": [{"name": "../a"}]}, 'parts[0].name="../a": expected a plain file name'),
        ({"parts": [{"name": ".."}]}, 'parts[0].name="..": expected a plain file name'),
        ({"parts": [{"name": "a\0"}]}, "expected a plain file name"),
        ({"parts": [{"name": 3}]}, "parts[0].name=3: expected a text"),
        ({"parts": [{"name": "a", "samples": -1}]}, "samples=-1: expected a number from 0"),
        ({"parts": [{"name": "a", "samples": 1.0}]}, "samples=1.0: expected an integer"),
        ({"parts": [{"name": "a", "samples": True}]}, "samples=true: expected an integer"),
        ({"parts": [{"name": "a", "samples": 10**30}]}, "expected an integer of 64 bits"),
        ({"pairs": {"a": [1]}}, "pairs.a=a list of 1: expected a list of 2 or null"),
        ({"pairs": {"a": [1, float("nan")]}}, "not readable as JSON: NaN is no finite number"),
        ('{"kind": -1e400}', "not readable as JSON: -1e400 is no finite number"),
        ({"pairs": {"a": [1, 10**400]}}, "expected a finite number"),
        ({"pairs": {"a": 7}}, "pairs.a=7: expected a list of 2 or null"),
        ({"files": {"a/../b": True}}, 'files="a/../b": expected the name of a file'),
        ({"files": {"/a": True}}, "expected the name of a file in this folder or below it"),
        ({"files": {"a/b": 1}}, "files.a/b=1: expected true or false"),
    ],
)
def test_what_does_not_fit_is_named_with_its_place(tmp_path: Path, content: Any, told: str) -> None:
    path = tmp_path / "a.json"
    path.write_text(content if isinstance(content, str) else json.dumps({**GOOD, **content}))
    with pytest.raises(Malformed) as caught:
        json_files.read(path, Record)
    assert str(caught.value).startswith(f"{path}: ")
    assert told in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"\xff\xfe{}",
        b'{"a": "\xed\xa0\x80"}',
        rb'{"a": ["\ud800"]}',
        rb'{"\udfff": 1}',
        b"[" * 100_000,
        b"9" * 5000,
        b'{"a": 1} x',
    ],
)
def test_what_is_no_json_of_utf8_text_is_malformed(data: bytes) -> None:
    with pytest.raises(Malformed, match=r"^place: not readable as JSON: "):
        json_files.parse(data, dict[str, Any], "place")


def test_a_pair_of_surrogates_is_one_character() -> None:
    assert json_files.parse(rb'["\ud83d\ude00"]', list[str], "place") == ["😀"]


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.json")
    with pytest.raises(OSError, match="not a regular file"):
        json_files.read(tmp_path / "a.json", Record)


def test_a_record_that_tells_its_own_hash_is_what_it_was(tmp_path: Path) -> None:
    path, record = tmp_path / "a.json", {"kind": "a", "parts": []}
    write_json(path, sealed(record))
    assert json_files.read_sealed(path, dict[str, Any]) == record
    path.write_text(path.read_text().replace('"a"', '"b"'))
    with pytest.raises(Malformed, match=r"a\.json is damaged: it differs from its own SHA-256"):
        json_files.read_sealed(path, dict[str, Any])
    write_json(path, record)  # as earlier versions did
    assert json_files.read_sealed(path, dict[str, Any]) == record


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
)


@given(st.dictionaries(st.sampled_from(["kind", "parts", "pairs", "files"]), values) | values)
def test_any_value_fits_or_is_malformed(value: Any) -> None:
    with contextlib.suppress(Malformed):
        json_files.checked(value, Record, "place")
