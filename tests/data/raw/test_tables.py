"""Tables as people and programs write them. Run: pytest tests/data/raw/test_tables.py"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.errors import UserError
from data.media.formats import DEFAULT_LIMITS
from data.raw.annotations.roles import ColumnsConfig
from data.raw.ingest import Listing, list_source
from data.raw.rules import SourceRules
from tests.data.samples import image_bytes, picture

PNG = image_bytes(picture())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "im").mkdir()
    for k in range(6):
        (tmp_path / f"im/{k}.png").write_bytes(image_bytes(picture(seed=k)))
    return tmp_path


def listed(folder: Path, name: str, content: str | bytes, **rules: object) -> Listing:
    data = content.encode() if isinstance(content, str) else content
    (folder / name).write_bytes(data)
    return list_source(folder / name, SourceRules(**rules))  # type: ignore[arg-type]


def texts(listing: Listing) -> list[str]:
    return [item.text for item in listing.items]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            "im/0.png,a cat, on a mat\nim/1.png,b\n",
            r"header has 2 fields, line 2 has 3; put texts with a comma",
        ),
        ("im/0.png\n", r"line 2 has 1"),
        ('im/0.png,"tall tree\nim/1.png,c\n', r"line 2: unexpected end of data; a quote opens or ends"),
        ('im/0.png,"tall\nim/1.png,a 5" monitor\nim/2.png,c\n', r"line 2: .* expected after"),
        ('im/0.png,"tall\nim/1.png,b\nim/2.png,5"\nim/3.png,c\n', r"line 4: .* look like rows"),
        ('im/0.png,""tall"" tree\n', r"line 2: .* expected after"),
    ],
)
def test_rows_that_a_lenient_reader_would_lose_refuse_the_table(
    folder: Path, rows: str, message: str
) -> None:
    with pytest.raises(UserError, match=message):
        listed(folder, "t.csv", "path,text\n" + rows)


def test_what_is_quoted_well_is_kept(folder: Path) -> None:
    rows = 'path,text\nim/0.png,"two\nlines, ""quoted"""\nim/1.png,a 5" monitor\n\nim/2.png,\n'
    assert texts(listed(folder, "t.csv", rows)) == ['two\nlines, "quoted"', 'a 5" monitor', ""]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("path;text\nim/0.png;ein Löwe, groß\n", "semicolon"),
        ("path\ttext\nim/0.png\tein Löwe, groß\n", "tab"),
        ("path|text\nim/0.png|ein Löwe, groß\n", "vertical bar"),
        ("sep=;\npath;text\nim/0.png;ein Löwe, groß\n", "semicolon"),
        ('path, text\nim/0.png, "ein Löwe, groß"\n', ""),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_delimiter_and_encoding_are_found_out_and_said(
    folder: Path, content: str, said: str, encoding: str
) -> None:
    listing = listed(folder, "t.csv", content.encode(encoding))
    assert texts(listing) == ["ein Löwe, groß"]
    shown = " ".join(listing.said)
    assert said in shown
    assert ("utf-16" in shown) == ("16" in encoding)


def test_latin_1_is_read_where_it_is_stated_and_never_guessed(folder: Path) -> None:
    content = "path,text\nim/0.png,café\n".encode("latin-1")
    assert texts(listed(folder, "t.csv", content, encoding="latin-1")) == ["café"]
    assert listed(folder, "t.csv", content).items[0].refused == (
        "caption",
        "line 2, column 'text': not UTF-8 (byte 0xe9); encoding=cp1252 reads 'café', cp1251 reads 'cafй'",
    )
    quotes = "path,text\nim/0.png,“café”\n".encode("cp1252")
    assert texts(listed(folder, "t.csv", quotes, encoding="cp1252")) == ["“café”"]


@pytest.mark.parametrize("text", ["2", "2.0", "+2", "2e0", "2.", " 2 "])
def test_a_label_is_a_number_however_it_is_written(folder: Path, text: str) -> None:
    rows = "".join(f"im/{k}.png,{k}.0\n" for k in range(3))
    listing = listed(folder, "t.csv", f"path,label\n{rows}im/3.png,{text}\nim/4.png,\n")
    assert [item.label for item in listing.items] == [0, 1, 2, 2, -1]
    assert listing.labels == 4


@pytest.mark.parametrize("word", ["nan", "NaN", "None", "NULL", "<NA>"])
def test_words_for_nothing_are_no_caption_and_no_class_and_are_counted(folder: Path, word: str) -> None:
    listing = listed(folder, "t.csv", f"path,text,label\nim/0.png,{word},{word}\nim/1.png,x,3\n")
    assert [(item.text, item.label) for item in listing.items] == [("", -1), ("x", 3)]
    assert any(line.startswith("1 x a word for nothing") for line in listing.said)
    assert (listing.texts, listing.labels) == (1, 1)


@pytest.mark.parametrize("path", ["path", "File Name", "file_name", "IMAGE", "video_path", "media_path"])
@pytest.mark.parametrize("text", ["text", " Caption", "captions", "PROMPT", "cap"])
@pytest.mark.parametrize("label", ["label", "Class", "class_name", "Class Name", "category "])
def test_columns_by_their_usual_names(folder: Path, path: str, text: str, label: str) -> None:
    listing = listed(folder, "t.csv", f"{path},{text},{label}\nim/0.png,a cat,1\n")
    assert [(item.text, item.label) for item in listing.items] == [("a cat", 1)]


def test_columns_by_name(folder: Path) -> None:
    rows = "path,text,where,says\nim/1.png,short,im/0.png,long\n"
    rules = {"columns": ColumnsConfig(path="Where", text="says")}
    listing = listed(folder, "t.csv", rows, **rules)
    assert [(item.name, item.text) for item in listing.items] == [("im/0.png", "long")]
    assert "not used: column 'path' of t.csv, column 'text' of t.csv" in listing.said
    with pytest.raises(UserError, match=r"columns.text=absent: expected a column of .*it has: path, text"):
        listed(folder, "t.csv", rows, columns=ColumnsConfig(text="absent"))


@pytest.mark.parametrize(
    ("header", "way"),
    [
        ("path,description", "columns.text=description"),
        ("path,alt", "columns.text=alt"),
        ("path,q7", "columns.text=q7"),  # it holds sentences
    ],
)
def test_a_column_that_looks_like_captions_is_never_passed_over_where_there_are_none(
    folder: Path, header: str, way: str
) -> None:
    rows = f"{header}\nim/0.png,a cat on a mat\n"
    with pytest.raises(UserError, match=rf"no sample has a caption.*{way} takes it, captions=none"):
        listed(folder, "t.csv", rows)
    assert texts(listed(folder, "t.csv", rows, captions="none")) == [""]
    named = ColumnsConfig(text=header.partition(",")[2])
    assert texts(listed(folder, "t.csv", rows, columns=named)) == ["a cat on a mat"]
    filled = f"{header},text\nim/0.png,a cat on a mat,a cat\n"
    assert any("not used: column" in line for line in listed(folder, "t.csv", filled).said)


def test_a_column_that_looks_like_labels_likewise(folder: Path) -> None:
    rows = "path,class_id\nim/0.png,3\n"
    with pytest.raises(UserError, match=r"no sample has a label.*columns.label=class_id.*classes=false"):
        listed(folder, "t.csv", rows)
    assert listed(folder, "t.csv", rows, columns=ColumnsConfig(label="class_id")).items[0].label == 3
    assert listed(folder, "t.csv", rows, classes=False).labels == 0


@pytest.mark.parametrize("columns", ["text,caption", "image,path", "class,category"])
def test_two_columns_of_one_role_must_agree(folder: Path, columns: str) -> None:
    first, second = columns.split(",")
    other = "" if "path" in columns else "path,"
    name = "" if "path" in columns else "im/0.png,"
    assert len(listed(folder, "t.csv", f"{other}{columns}\n{name}im/1.png,im/1.png\n").items) == 1
    assert len(listed(folder, "t.csv", f"{other}{columns}\n{name},im/1.png\n").items) == 1
    with pytest.raises(UserError, match=rf"row 1: '({first}|{second})' and '.*' differ; columns\."):
        listed(folder, "t.csv", f"{other}{columns}\n{name}im/1.png,im/2.png\n")


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("https://host/0.png", "a URL"),
        ("s3://bucket/0.png", "a URL"),
        ("~/0.png", "'~' is not expanded"),
        (r"C:\photos\0.png", "Windows drive"),
        ("im/absent.png", "No such file"),
        ("", "the row has no path"),
    ],
)
def test_paths_that_lead_nowhere_say_why(folder: Path, path: str, reason: str) -> None:
    listing = listed(folder, "t.csv", f"path,text\n{path},x\nim/0.png,y\n")
    refused = listing.items[0].refused
    assert refused is not None
    assert reason in refused[1]
    assert listing.items[1].refused is None


def test_windows_paths_and_files_beside_the_table_are_found(folder: Path) -> None:
    (folder / "videos").mkdir()
    (folder / "videos/a.png").write_bytes(PNG)
    listing = listed(folder, "t.csv", "path,text\nim\\0.png,x\na.png,y\n")
    assert [item.name for item in listing.items] == ["im/0.png", "videos/a.png"]
    assert "1 x path with \\, read as /" in listing.said


def test_paths_out_of_the_folder_are_counted_and_from_within_a_source_refused(folder: Path) -> None:
    inner = folder / "inner"
    inner.mkdir()
    (inner / "0.png").write_bytes(PNG)
    content = "path,text\n0.png,x\n../im/0.png,y\n"
    alone = listed(inner, "t.csv", content)
    assert "1 x file of a table outside of the table's folder" in alone.said
    assert all(item.refused is None for item in alone.items)
    within = list_source(inner)
    assert [item.refused for item in within.items] == [
        None,
        ("read", "lies outside of the source; links=follow reads it"),
    ]
    assert all(item.refused is None for item in list_source(inner, SourceRules(links="follow")).items)
    (inner / "t.csv").write_text("path,text\n/of/another/machine/1.png,x\n")
    (gone, _) = list_source(inner).items
    assert gone.refused == (
        "read",
        "is not there, and lies outside of the source; write it relative to the table",
    )


def test_json_lines_with_a_mark_nan_and_repeated_fields(folder: Path) -> None:
    lines = [
        '{"file_name": "im/0.png", "text": NaN, "label": 2.0}',
        '{"file_name": "im/1.png", "text": "a", "text": "b"}',
        '{"file_name": "im/2.png", "prompt": "c"}',
    ]
    listing = listed(folder, "t.jsonl", "\ufeff" + "\n".join(lines))
    assert [(item.text, item.label) for item in listing.items] == [("", 2), ("", -1), ("c", -1)]
    assert listing.items[1].refused == ("list", "bad row: the field 'text' is there twice")


def test_a_path_that_no_file_can_have_sets_its_row_aside(folder: Path) -> None:
    listing = listed(folder, "t.jsonl", '{"path": "\\ud800.png"}\n{"path": "im/0.png"}\n')
    refused = listing.items[0].refused
    assert refused is not None
    assert (listing.items[0].name, refused[0]) == ("\\ud800.png", "read")
    assert listing.items[1].refused is None


def test_several_captions_are_all_kept(folder: Path) -> None:
    row = json.dumps({"path": "im/0.png", "cap": ["short", "long caption", "short"]})
    listing = listed(folder, "t.jsonl", row)
    assert (listing.items[0].text, listing.items[0].more) == ("short", {"texts": ["short", "long caption"]})
    assert any("several captions" in line for line in listing.said)


def test_parquet_keeps_class_names_and_pictures(folder: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    pictures = [image_bytes(picture(seed=k)) for k in range(5)]
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}, "image": {"_type": "Image"}}
    table = pyarrow.table(
        {
            "image": [{"bytes": data, "path": f"{k}.png"} for k, data in enumerate(pictures)],
            "label": [0, 1, None, 1, 0],
            "text": ["a", None, "c", "d", "e"],
        }
    ).replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    parquet.write_table(table, folder / "t.parquet", row_group_size=2)
    listing = list_source(folder / "t.parquet")
    assert listing.classes == ("cat", "dog")
    assert [(item.label, item.text) for item in listing.items] == [
        (0, "a"),
        (1, ""),
        (-1, "c"),
        (1, "d"),
        (0, "e"),
    ]
    assert [listing.items[k].read(DEFAULT_LIMITS) for k in (4, 0, 3, 1, 2)] == [
        pictures[k] for k in (4, 0, 3, 1, 2)
    ]


def test_a_column_of_splits_must_be_chosen_from(folder: Path) -> None:
    rows = "path,text,split\nim/0.png,a,train\nim/1.png,b,test\nim/2.png,c,train\n"
    with pytest.raises(UserError, match=r"split=.*test \(1 row\), train \(2 rows\)"):
        listed(folder, "t.csv", rows)
    listing = listed(folder, "t.csv", rows, split="train")
    assert texts(listing) == ["a", "c"]
    assert listing.ignored == {"row of split test": 1}


def test_columns_are_typed_as_a_section_or_field_by_field() -> None:
    from core.config.loading import load
    from tools.shard.job import Config

    whole = load(Config, overrides=["source=in", "output=out", "columns={path: image, text: prompt}"])
    fields = load(Config, overrides=["source=in", "output=out", "columns.path=image", "columns.text=prompt"])
    assert whole.columns == fields.columns == ColumnsConfig(path="image", text="prompt")
    with pytest.raises(UserError, match=r"columns.title: no such field"):
        load(Config, overrides=["source=in", "output=out", "columns={title: x}"])
    with pytest.raises(UserError, match=r"columns=\{path: expected fields as in YAML"):
        load(Config, overrides=["source=in", "output=out", "columns={path"])


def test_parquet_of_maps_and_of_columns_that_are_there_twice(folder: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="optional: pip install longtake[tables]")
    from pyarrow import parquet

    paths = pyarrow.array(["im/0.png", "im/1.png"])
    captions = [[("en", "a dog"), ("de", "ein Hund")], None]
    kind = pyarrow.map_(pyarrow.string(), pyarrow.string())
    parquet.write_table(
        pyarrow.table({"path": paths, "captions": pyarrow.array(captions, kind)}), folder / "t.parquet"
    )
    first, second = list_source(folder / "t.parquet").items
    assert (first.more["texts"], first.more["text_names"]) == (["a dog", "ein Hund"], ["en", "de"])
    assert second.text == ""
    twice = pyarrow.Table.from_arrays([paths, paths, paths], names=["path", "text", "text"])
    parquet.write_table(twice, folder / "t.parquet")
    with pytest.raises(UserError, match=r"t\.parquet: there are two columns 'text'"):
        list_source(folder / "t.parquet")


def test_a_table_without_rows_is_said(folder: Path) -> None:
    (folder / "empty.csv").write_text("path,text\n")
    listing = list_source(folder, SourceRules(captions="none"))
    assert "empty.csv: names columns and has no rows" in listing.said


def test_a_list_of_one_path_is_that_path(folder: Path) -> None:
    listing = listed(folder, "t.jsonl", '{"path": ["im/0.png"], "text": ["a dog"]}\n')
    assert [(item.name, item.text, item.refused) for item in listing.items] == [("im/0.png", "a dog", None)]
