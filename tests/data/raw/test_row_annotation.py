"""What rows of tables say in unusual forms. Run: pytest tests/data/raw/test_row_annotation.py"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.errors import UserError
from data.media.formats import MediaLimits
from data.raw.annotations.roles import ColumnsConfig
from data.raw.ingest import list_source
from data.raw.rules import SourceRules
from tests.data.raw.sources import PNG, listed, pictures, place, told


def parquet(path: Path, columns: dict[str, Any], types: dict[str, Any] | None = None) -> Path:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet as files

    arrays = {name: pyarrow.array(values, (types or {}).get(name)) for name, values in columns.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    files.write_table(pyarrow.table(arrays), path)
    return path


def test_a_parquet_picture_may_be_a_file_by_its_path(tmp_path: Path) -> None:
    place(tmp_path, pictures("train/0.png"))
    both = [{"bytes": None, "path": "train/0.png"}, {"bytes": PNG, "path": "in.png"}]
    for name, column in (("none", both[:1]), ("some", both), ("path", [{"path": "train/0.png"}])):
        table = parquet(tmp_path / f"{name}.parquet", {"image": column, "text": ["a", "b"][: len(column)]})
        listing = list_source(table)
        assert [(i.text, i.refused) for i in listing.items] == [("a", None), ("b", None)][: len(column)]
        assert all(item.read(MediaLimits()) == PNG for item in listing.items)
    for row, reason in (
        ({"bytes": None, "path": None}, "the row has no picture"),
        (None, "the row has no picture"),
    ):
        table = parquet(tmp_path / "empty.parquet", {"image": [both[1], row]})
        assert [i.refused for i in list_source(table).items] == [None, ("list", reason)]
    table = parquet(tmp_path / "gone.parquet", {"image": [{"bytes": None, "path": "no.png"}]})
    assert [i.refused for i in list_source(table).items] == [("read", "No such file or directory")]
    table = parquet(tmp_path / "list.parquet", {"image": [both]})
    assert [i.refused for i in list_source(table).items] == [
        ("list", "image holds 2 files, and a row is one sample")
    ]


def test_json_lines_name_a_picture_as_hugging_face_does(tmp_path: Path) -> None:
    row = {"image": {"bytes": None, "path": "0.png"}, "text": "a"}
    assert told(listed(tmp_path, {**pictures("0.png"), "a.jsonl": json.dumps(row)})) == {"0.png": ("", "a")}


@pytest.mark.parametrize("as_bytes", [False, True])
def test_members_of_webdataset_samples_as_columns(tmp_path: Path, as_bytes: bool) -> None:
    def written(text: str) -> Any:
        return text.encode() if as_bytes else text

    columns = {
        "__key__": ["0", "1", "2"],
        "png": [PNG] * 3,
        "txt": [written("a cat"), None, written("a cat")],
        "cls": [written("1"), written("0"), written("1")],
        "json": [
            written(json.dumps(fields))
            for fields in ({"caption": "a cat"}, {"caption": "a dog"}, {"caption": "tags", "label": 0})
        ],
    }
    listing = list_source(parquet(tmp_path / "a.parquet", columns))
    assert [(item.label, item.text) for item in listing.items] == [(1, "a cat"), (0, "a dog"), (1, "a cat")]
    assert "1 x a second caption in .json, not used" in listing.said
    assert "1 x a label in .json that differs from .cls, not used" in listing.said
    assert all(item.read(MediaLimits()) == PNG for item in listing.items)


def test_a_json_column_of_objects_is_read_and_a_damaged_one_sets_its_row_aside(tmp_path: Path) -> None:
    columns = {"png": [PNG] * 2, "json": [{"text": "a", "width": 2}, {"text": "b", "width": 2}]}
    assert [i.text for i in list_source(parquet(tmp_path / "a.parquet", columns)).items] == ["a", "b"]
    columns = {"png": [PNG] * 2, "json": ['{"text": "a"}', "[1]"]}
    refused = [i.refused for i in list_source(parquet(tmp_path / "b.parquet", columns)).items]
    assert refused == [None, ("caption", "column 'json': JSON is not an object")]
    table = parquet(tmp_path / "c.parquet", {"png": [PNG], "words": [b"a cat"]})
    refused = [i.refused for i in list_source(table, SourceRules(columns=ColumnsConfig(text="words"))).items]
    assert refused == [("caption", "column 'words' holds bytes and no text")]


HEADLESS = {
    "words.csv": "0.png,red\n1.png,blue\n",
    "words.tsv": "0.png\tred\n1.png\tblue\n",
    "image.csv": "0.png,image\n1.png,video\n",
    "sentences.csv": "0.png,a red square\n1.png,a blue one\n",
    "other order.csv": "red,0.png\nblue,1.png\n",
}


@pytest.mark.parametrize("name", HEADLESS)
def test_a_table_without_header_is_refused_by_name(tmp_path: Path, name: str) -> None:
    files = {**pictures("0.png", "1.png"), name: HEADLESS[name]}
    with pytest.raises(UserError, match=r"no sample has a caption.*a first line such as path,text.*takes it"):
        listed(tmp_path, files)
    with pytest.raises(UserError, match=r"its first line is a row \(0.png\) and names no columns; put"):
        list_source(tmp_path / name)
    (tmp_path / "0.txt").write_text("red")
    if "sentences" not in name:  # single words may be classes, too
        with pytest.raises(UserError, match=r"no sample has a label"):
            list_source(tmp_path)
    listing = list_source(tmp_path, SourceRules(classes=False))
    assert any("not used: column" in line and name in line for line in listing.said)


def test_a_column_may_be_called_as_a_file_is(tmp_path: Path) -> None:
    files = {**pictures("0.png"), "m.csv": "path,text,mask.png\n0.png,red,x\n"}
    assert told(listed(tmp_path, files)) == {"0.png": ("", "red")}


@pytest.mark.parametrize(
    ("text", "refused"),
    [
        ("id,colour\n0,red\n1,blue\n", True),
        ("id,colour\n0.png,red\n1.png,blue\n", True),
        ("step,loss\n0,0.5\n1,0.25\n", False),
        ("step,word\n700,a\n800,b\n", False),
        ("0.png\n1.png\n", False),
    ],
)
def test_a_table_without_path_column_that_names_pictures_is_never_passed_over(
    tmp_path: Path, text: str, refused: bool
) -> None:
    files = {**pictures("0.png", "1.png"), "list.csv": text}
    if refused:
        with pytest.raises(UserError, match=r"no sample has a caption.*'colour' of list.csv; columns.path="):
            listed(tmp_path, files)
    else:
        assert listed(tmp_path, files).texts == 0


def test_a_row_in_another_encoding_says_where_and_what_reads_it(tmp_path: Path) -> None:
    place(tmp_path, pictures("0.png"))
    table = tmp_path / "a.csv"
    table.write_bytes(b'path,prompt\n0.png,"a\nb"\n0.png,caf\xe9\n')
    reason = (
        "line 4, column 'prompt': not UTF-8 (byte 0xe9); encoding=cp1252 reads 'café', cp1251 reads 'cafй'"
    )
    assert [item.refused for item in list_source(table).items] == [None, ("caption", reason)]
    assert [i.text for i in list_source(table, SourceRules(encoding="cp1252")).items] == ["a\nb", "café"]
    (tmp_path / "0.txt").write_bytes(b"caf\xe9")
    (item,) = list_source(tmp_path, SourceRules(captions="txt")).items[-1:]
    table.unlink()
    (item,) = list_source(tmp_path).items
    reason = "caption is not UTF-8 (byte 3); encoding=cp1252 reads 'café', cp1251 reads 'cafй'"
    assert item.refused == ("caption", reason)


def test_pictures_in_a_column_of_another_name_are_never_passed_over(tmp_path: Path) -> None:
    cell = {"bytes": PNG, "path": None}
    for name, column in (("struct", [None, cell]), ("bytes", [None, PNG])):
        table = parquet(tmp_path / name / "a.parquet", {"img": column, "label": [1, 0]})
        place(table.parent, pictures("0.png"))
        with pytest.raises(
            UserError, match=r"pictures lie in 'img', which is no usual name; columns.path=img"
        ):
            list_source(table.parent)
        (table.parent / "0.png").unlink()
        listing = list_source(table.parent, SourceRules(columns=ColumnsConfig(path="img")))
        assert [(i.label, i.refused) for i in listing.items] == [
            (-1, ("list", "the row has no picture")),
            (0, None),
        ]
    parquet(tmp_path / "vectors" / "a.parquet", {"key": ["0"], "vector": [b"\x01\x02"]})
    assert len(listed(tmp_path / "vectors", pictures("0.png")).items) == 1
    parquet(tmp_path / "none" / "a.parquet", {"images": [[cell]], "caption": ["a"]})
    with pytest.raises(UserError, match=r"the column 'path' is missing; it has: images, caption"):
        list_source(tmp_path / "none")


def test_json_lines_that_are_one_list_are_refused_by_name(tmp_path: Path) -> None:
    content = json.dumps([{"file_name": "0.png", "text": "a"}], indent=1)
    with pytest.raises(
        UserError, match=r"m.jsonl: line 1: .*each line of JSON lines is an object.*called .json"
    ):
        listed(tmp_path, {**pictures("0.png"), "m.jsonl": content})


def test_a_label_that_is_a_fraction_is_no_name(tmp_path: Path) -> None:
    table = "path,label\n0.png,0.15\n1.png,3\n"
    listing = listed(tmp_path, {**pictures("0.png", "1.png"), "m.csv": table})
    assert [i.refused for i in listing.items] == [("label", "label '0.15' is not a whole number"), None]


def test_sentences_in_conversations_may_be_the_captions(tmp_path: Path) -> None:
    talk = [{"from": "human", "value": "What is it?"}, {"from": "gpt", "value": "It is a cat."}]
    table = parquet(tmp_path / "a.parquet", {"image": [PNG], "conversations": [talk]})
    with pytest.raises(UserError, match=r"no sample has a caption.*column 'conversations' of a.parquet"):
        list_source(table)
