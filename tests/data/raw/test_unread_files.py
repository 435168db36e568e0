"""Files that may hold captions and that nothing reads. Run: pytest tests/data/raw/test_unread_files.py"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from core.errors import UserError, WorkError
from data.raw.ingest import list_source
from data.raw.rules import SourceRules
from data.raw.walking import missing_parts
from tests.data.raw.sources import lines, listed, pictures, place, told
from tests.data.samples import tar_bytes

TWO = pictures("a0.png", "a1.png")
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n"


@pytest.mark.parametrize("name", ["results.token", "notes.dat", "list", "meta.md", "list.txt", "table.psv"])
@pytest.mark.parametrize("sign", ["\t", ": ", " | ", ",", " ", "#0\t"])
@pytest.mark.parametrize("suffix", [".png", ""])
def test_lists_of_pictures_and_captions_are_refused_by_name(
    tmp_path: Path, name: str, sign: str, suffix: str
) -> None:
    text = f"a0{suffix}{sign}a red cat\na1{suffix}{sign}a blue dog\n"
    with pytest.raises(UserError, match=f"no sample has a caption.*the file {name}; .*captions=none"):
        listed(tmp_path, {**TWO, name: text})
    assert len(listed(tmp_path, {}, captions="none").items) == 2


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("urls.dat", "https://host/a0.png\nhttps://host/a1.png\n"),
        ("names", "a0.png\na1.png\n"),
        ("job.log", "began at 12:00\nended\n"),
        ("class_names.txt", "cat\ndog\n"),
        ("main.py", "prompt = 'a0.png shows a cat'\n"),
    ],
)
def test_other_texts_are_counted_alone(tmp_path: Path, name: str, text: str) -> None:
    assert sum(listed(tmp_path, {**TWO, name: text}).ignored.values()) == 1


@pytest.mark.parametrize(
    ("files", "what"),
    [
        ({"cap0.txt": "a red cat", "cap1.txt": "a dog"}, r"2 files of text that are called as no picture is"),
        ({"0.txt": "a red cat", "1.txt": "a dog"}, r"called as no picture is \(0.txt ...\); calling each"),
        ({"captions.orc": "ORC"}, "the file captions.orc; writing it as .parquet"),
        ({"prompts.db": "SQLite format 3\0"}, "the file prompts.db"),
        ({"m.json": '{"columns": ["f", "t"], "data": [["a0.png", "a cat"], ["a1.png", "a dog"]]}'}, "m.json"),
    ],
)
def test_captions_that_belong_to_no_picture_by_name_are_not_lost(
    tmp_path: Path, files: dict[str, str | bytes], what: str
) -> None:
    with pytest.raises(UserError, match=f"no sample has a caption.*{what}"):
        listed(tmp_path, {**TWO, **files})


def test_captions_of_classes_are_not_lost(tmp_path: Path) -> None:
    many = pictures(*(f"{name}/{k}.png" for name in ("cat", "dog") for k in range(9)))
    files = {**many, "cat.txt": "a photo of a cat", "dog.txt": "a photo of a dog"}
    with pytest.raises(UserError, match=r"2 files of text that are called as folders are \(cat.txt ...\)"):
        listed(tmp_path, files)


def test_names_of_classes_are_no_captions(tmp_path: Path) -> None:
    listing = listed(tmp_path, {**pictures("cat/0.png", "dog/1.png"), "labels.txt": "cat\ndog\n"})
    assert "not used: the file labels.txt" in listing.said


@pytest.mark.parametrize("suffix", ["label", "labels"])
def test_a_file_beside_a_picture_that_is_called_as_labels_are_is_no_caption(
    tmp_path: Path, suffix: str
) -> None:
    with pytest.raises(UserError, match=f"no sample has a label.*1 .{suffix}; the suffix .cls takes it"):
        listed(tmp_path, {**pictures("0.png"), f"0.{suffix}": "3"})


def test_a_text_called_as_a_licence_is_the_caption_of_its_picture(tmp_path: Path) -> None:
    names = ("license_plate", "notice_board", "copying-machine", "readme")
    files = {f"{name}.txt": f"t {name}" for name in names}
    read = {f"{name}.png": ("", f"t {name}") for name in names}
    listing = listed(tmp_path / "a", {**pictures(*read), **files, "LICENSE.txt": "free"})
    assert (told(listing), listing.ignored) == (read, {".txt": 1})
    members = [*pictures(*read).items(), *((n, t.encode()) for n, t in files.items()), ("README.md", b"x")]
    tar = tar_bytes(sorted((name, bytes(data)) for name, data in members if not isinstance(data, str)))
    listing = listed(tmp_path / "b", {"a.tar": tar})
    assert told(listing) == {f"a.tar/{name}": what for name, what in read.items()}


def test_captions_of_a_folder_may_be_called_by_the_whole_name(tmp_path: Path) -> None:
    files = {**pictures("images/0.png", "images/1.png"), "captions/0.png.txt": "t0", "captions/1.txt": "t1"}
    assert told(listed(tmp_path, files)) == {"images/0.png": ("", "t0"), "images/1.png": ("", "t1")}


@pytest.mark.parametrize("begins", [POINTER, "<!DOCTYPE html><html>404", r"{\rtf1 a cat}"])
def test_pointers_and_pages_are_no_captions_tables_or_tars(tmp_path: Path, begins: str) -> None:
    (item,) = listed(tmp_path / "a", {**pictures("0.png"), "0.txt": begins}).items
    assert item.refused is not None
    assert item.refused[1].startswith("no caption but a")
    for name in ("m.csv", "m.parquet", "m.jsonl"):
        with pytest.raises(UserError, match=f"{name}: no table but a"):
            listed(tmp_path / name, {**pictures("0.png"), name: begins})
    with pytest.raises(WorkError, match=r"a.tar: no tar but a"):
        listed(tmp_path / "b", {"a.tar": begins})


def test_text_that_was_read_in_another_encoding_is_told(tmp_path: Path) -> None:
    files = {**TWO, "a0.txt": "caf\u00c3\u00a9", "a1.txt": "a cat\u00e2\u20ac\u2122s toy"}
    assert any(
        line.startswith("2 x text that looks like UTF-8 read as") for line in listed(tmp_path, files).said
    )
    assert not any(
        "looks like" in line for line in listed(tmp_path, {"a0.txt": "Ângstrom, à", "a1.txt": "é"}).said
    )


def test_columns_that_only_later_rows_have_are_told(tmp_path: Path) -> None:
    rows = [{"path": "a0.png", "text": "t"} for _ in range(120)]
    rows.append({"path": "a1.png", "description": "a cat"})
    listing = listed(tmp_path, {**TWO, "m.jsonl": lines(*rows)})
    assert "not used: column 'description' of m.jsonl" in listing.said


def test_parts_that_are_not_there_are_told() -> None:
    names = [f"data-{k:05d}-of-00004.parquet" for k in (0, 2)]
    said = ["warning: of the 4 files data-N-of-00004.parquet 2 are not there: 1, 3"]
    assert missing_parts([*names, "b-00000-of-00001.tar", "c.tar"]) == said
    assert missing_parts([f"data-{k}-of-3.tar" for k in (1, 2, 3)]) == []  # counted from 1


@pytest.mark.parametrize("column", ["is_test", "is_train", "test"])
def test_columns_that_may_say_what_is_for_tests_are_told(tmp_path: Path, column: str) -> None:
    files = {**TWO, "m.csv": f"path,text,{column}\na0.png,a cat,0\na1.png,a dog,1\n"}
    assert any(line.startswith(f"warning: column '{column}'") for line in listed(tmp_path, files).said)


def test_splits_within_classes_are_told(tmp_path: Path) -> None:
    listing = listed(tmp_path, pictures("cat/train/0.png", "cat/test/1.png", "dog/train/2.png"))
    assert any("folders within others are called as splits" in line for line in listing.said)


def test_lists_of_splits_in_json_are_told(tmp_path: Path) -> None:
    listing = listed(tmp_path, {**TWO, "splits.json": '{"train": ["a0.png"], "test": ["a1.png"]}'})
    assert "not used: the file splits.json" in listing.said


def test_paths_of_other_suffixes_and_with_numbers_of_captions_are_found(tmp_path: Path) -> None:
    files = {**TWO, "m.csv": "path,text\na0.jpg,a cat\na1.png#0,a dog\na1.png#1,big\n"}
    texts = [(item.name, item.text) for item in listed(tmp_path, files).items]
    assert texts == [("a0.png", "a cat"), ("a1.png", "a dog"), ("a1.png", "big")]


@pytest.mark.parametrize("name", ["v1.0#2/0.png", "a:0.png"])
def test_numbers_within_paths_and_colons_belong_to_names(tmp_path: Path, name: str) -> None:
    """Only a number at the end is that of a caption; only what is not there may lie on a drive of Windows."""
    (item,) = listed(tmp_path, {**pictures(f"images/{name}"), "m.csv": f"path,text\n{name},a cat\n"}).items
    assert (item.name, item.text, item.refused) == (f"images/{name}", "a cat", None)


def test_folders_of_hive_give_the_label_of_their_tables(tmp_path: Path) -> None:
    files = {
        **TWO,
        "class=cat/m.csv": "path,text\n../a0.png,x\n",
        "class=dog/m.csv": "path,text\n../a1.png,y\n",
    }
    assert told(listed(tmp_path, files)) == {"a0.png": ("cat", "x"), "a1.png": ("dog", "y")}


def test_a_pipe_called_as_a_list_is_named_and_never_waited_for(tmp_path: Path) -> None:
    place(tmp_path, pictures("0.png"))
    os.mkfifo(tmp_path / "captions.txt")
    with pytest.raises(UserError, match=r"no sample has a caption.*the file captions.txt"):
        list_source(tmp_path)
    assert len(list_source(tmp_path, SourceRules(captions="none")).items) == 1
