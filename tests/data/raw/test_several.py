"""Several captions of a sample: in which forms they are read, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.errors import UserError
from data.dataset.index import Dataset
from data.raw.annotations.annotation import from_fields
from data.raw.annotations.roles import ColumnsConfig
from data.raw.annotations.several import Caption, stored
from tests.data.samples import image_bytes, picture
from tools.shard import job as shard

FORMS: list[tuple[dict[str, Any], list[Caption]]] = [
    ({"caption": "a"}, [Caption("a")]),
    ({"captions": ["a", "b", "", None, "a"]}, [Caption("a"), Caption("b")]),
    ({"captions": ["a", "b"], "caption_weights": [1, 3]}, [Caption("a", "", 1), Caption("b", "", 3)]),
    ({"captions": ["a", "", "b"], "caption_weights": "[1, 9, 3]"}, [Caption("a"), Caption("b", "", 3)]),
    ({"captions": {"short": "a", "long": "b"}}, [Caption("a", "short"), Caption("b", "long")]),
    (
        {"captions": {"short": "a", "long": ["b", "c"]}, "caption_weights": {"Long": 2, "short": 0}},
        [Caption("a", "short", 0), Caption("b", "long", 2), Caption("c", "long", 2)],
    ),
    (
        {"captions": [{"text": "a", "weight": 0.5, "name": "vlm"}, {"caption": "b"}]},
        [Caption("a", "vlm", 0.5), Caption("b")],
    ),
    ({"text": "a", "caption": "b"}, [Caption("a", "text"), Caption("b", "caption")]),
    ({"text": "a", "captions": ["a", "b"]}, [Caption("a"), Caption("b")]),
    ({"caption_key": "long_caption", "long_caption": "b", "caption": "a"}, [Caption("b", "long_caption")]),
    (
        {"caption_key": ["x", "y"], "x": "b", "y": "a", "text": "c"},
        [Caption("b", "x"), Caption("a", "y")],
    ),
    ({"caption_key": "long", "captions": {"short": "a", "long": "b"}}, [Caption("b", "long")]),
    (
        {"text": "a", "texts": ["a", "b"], "text_names": ["s", "l"], "text_weights": [1, 2]},
        [Caption("a", "s"), Caption("b", "l", 2)],
    ),
]


@pytest.mark.parametrize(("fields", "expected"), FORMS)
def test_every_form_is_read_and_read_again_from_what_is_stored(
    fields: dict[str, Any], expected: list[Caption]
) -> None:
    annotation = from_fields(fields)
    assert annotation.refused is None
    assert list(annotation.captions) == expected
    assert annotation.text == expected[0].text
    written = json.loads(json.dumps({"text": annotation.text, **stored(annotation.captions)}))
    assert from_fields(written, one_text=True).captions == annotation.captions


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"captions": ["a", 3]}, "captions is not a text but int"),
        ({"captions": {"long": [3]}}, "captions.long is not a text but int"),
        ({"captions": ["a", "b"], "caption_weights": [1]}, "not one number for each of 2 captions"),
        ({"captions": ["a", "b"], "caption_weights": [1, -1]}, "weight '-1' is no number from 0"),
        ({"captions": ["a", "b"], "caption_weights": [1, float("nan")]}, "weight 'nan' is no number"),
        ({"captions": ["a", "b"], "caption_weights": [True, 1]}, "weight 'True' is no number"),
        ({"captions": ["a", "b"], "caption_weights": [0, 0]}, "caption_weights are all 0"),
        ({"captions": ["a"], "caption_weights": "many"}, "caption weight 'many' is no number"),
        ({"captions": {"s": "a", "l": "b"}, "caption_weights": {"s": 1}}, "no weight for 'l'"),
        ({"caption_key": "gone", "caption": "a"}, "caption_key names 'gone', which is not there"),
        ({"caption_key": 3, "caption": "a"}, "caption_key is not a name but int"),
        ({"captions": ["a", "b"], "text_names": ["s"]}, "not one name for each of 2 captions"),
        ({"captions": ["a"] * 1001}, "1001 captions, more than 1000"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(fields: dict[str, Any], reason: str) -> None:
    refused = from_fields(fields).refused
    assert refused is not None
    assert reason in refused[1]


def test_columns_of_a_table_that_differ_are_refused_unless_they_are_named() -> None:
    row = {"short": "a", "long": "b", "text": "c"}
    both = from_fields(row, ColumnsConfig(text="long+short"), one_text=True)
    assert both.captions == (Caption("b", "long"), Caption("a", "short"))
    assert from_fields({**row, "short": ""}, ColumnsConfig(text="long+short")).captions[0].name == "long"
    refused = from_fields({"text": "a", "caption": "b"}, one_text=True).refused
    assert refused is not None
    assert refused[0] == "columns"
    assert "columns.text=NAME+NAME keeps both" in refused[1]


def packed(folder: Path, table: str, rows: str, **fields: Any) -> list[dict[str, Any]]:
    for number in range(2):
        (folder / "in").mkdir(exist_ok=True)
        (folder / "in" / f"{number}.png").write_bytes(image_bytes(picture(16, 16, seed=number)))
    (folder / "in" / table).write_text(rows)
    config = shard.Config(
        source=str(folder / "in" / table), output=str(folder / "raw"), shuffle=False, **fields
    )
    shard.run(config)
    dataset = Dataset(folder / "raw")
    return [json.loads(dataset.read(row)["json"]) for row in range(len(dataset))]


def test_a_table_keeps_several_captions_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [
        {
            "path": "0.png",
            "caption_key": ["short", "long"],
            "short": "a",
            "long": "b",
            "caption_weights": [1, 3],
        },
        {"path": "1.png", "caption_key": "long", "short": "c", "long": "d"},
    ]
    first, second = packed(tmp_path, "t.jsonl", "\n".join(map(json.dumps, rows)))
    assert (first["texts"], first["text_names"], first["text_weights"]) == (
        ["a", "b"],
        ["short", "long"],
        [1, 3],
    )
    assert (second["texts"], second["text_names"]) == (["d"], ["long"])
    said = capsys.readouterr().err
    assert "1 x several captions: all are stored, and each step of training draws one" in said
    assert "not used" not in said
    assert Dataset(tmp_path / "raw").manifest.extra["captions"] == 3


def test_named_columns_of_a_csv_are_captions_by_their_names(tmp_path: Path) -> None:
    rows = "path,short,long\n0.png,a,b\n1.png,,d\n"
    first, second = packed(tmp_path, "t.csv", rows, columns=ColumnsConfig(text="short+long"))
    assert (first["texts"], first["text_names"]) == (["a", "b"], ["short", "long"])
    assert (second["texts"], second["text_names"]) == (["d"], ["long"])
    with pytest.raises(UserError, match=r"columns.text=gone: expected a column of"):
        packed(tmp_path, "u.csv", rows, columns=ColumnsConfig(text="short+gone"), overwrite=True)


def test_no_captions_are_kept_where_none_are_wanted(tmp_path: Path) -> None:
    rows = json.dumps(
        {"path": "0.png", "captions": {"s": "a", "l": "b"}, "caption_weights": {"s": 1, "l": 2}}
    )
    (only,) = packed(tmp_path, "t.jsonl", rows, captions="none")
    assert not {"texts", "text_names", "text_weights"} & only.keys()
    assert only["text"] == ""
