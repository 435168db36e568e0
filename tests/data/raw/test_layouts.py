"""Datasets laid out as the tools of others write them. Run: pytest tests/data/raw/test_layouts.py"""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path

import pytest

from core.errors import UserError, WorkError
from data.dataset.index import Dataset
from data.raw.ingest import list_source
from data.raw.rules import SourceRules
from tests.data.raw.sources import PNG, lines, listed, pictures, place, tar, told
from tools.shard.job import Config, run

TABLES: dict[str, dict[str, str | bytes]] = {
    "hugging face": {"metadata.jsonl": lines(*({"file_name": f"{k}.png", "text": f"t{k}"} for k in (0, 1)))},
    "hugging face csv": {"metadata.csv": "file_name,text\n0.png,t0\n1.png,t1\n"},
    "diffsynth": {"metadata.csv": "image,prompt\n0.png,t0\n1.png,t1\n"},
    "fastvideo": {
        "videos2caption.json": json.dumps([{"path": f"{k}.png", "cap": [f"t{k}"]} for k in (0, 1)])
    },
    "musubi": {"images.jsonl": lines(*({"image_path": f"{k}.png", "caption": f"t{k}"} for k in (0, 1)))},
    "ltx": {"dataset.json": json.dumps([{"caption": f"t{k}", "media_path": f"{k}.png"} for k in (0, 1)])},
    "finetrainers": {"prompts.txt": "t0\nt1\n", "videos.txt": "0.png\n1.png\n"},
    "kohya's metadata": {"meta.json": json.dumps({f"{k}.png": {"caption": f"t{k}"} for k in (0, 1)})},
    "beside": {"0.txt": "t0", "1.caption": "\ufefft1"},
    "named": {"0.caption.txt": "t0", "1.info.json": '\ufeff{"caption": "t1"}'},
    "whole names": {"0.png.txt": "t0", "1.png.prompt": "t1\n"},
    "utf-16": {"0.txt": "t0".encode("utf-16"), "1.txt": "t1".encode("utf-16-le")},
}


@pytest.mark.parametrize("layout", TABLES)
def test_captions_in_a_folder(tmp_path: Path, layout: str) -> None:
    listing = listed(tmp_path, {**pictures("0.png", "1.png"), **TABLES[layout]})
    assert told(listing) == {"0.png": ("", "t0"), "1.png": ("", "t1")}
    assert (listing.texts, listing.ignored) == (2, {})


def test_parquet_metadata_in_a_folder(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    place(tmp_path, pictures("0.png"))
    parquet.write_table(
        pyarrow.table({"file_name": ["0.png"], "text": ["t0"]}), tmp_path / "metadata.parquet"
    )
    assert told(list_source(tmp_path)) == {"0.png": ("", "t0")}


def test_a_table_and_files_that_it_does_not_name(tmp_path: Path) -> None:
    files = {**pictures("a/0.png", "a/1.png"), "a/metadata.csv": "file_name,text\n0.png,x\n", "a/1.txt": "y"}
    listing = listed(tmp_path, files)
    assert told(listing) == {"a/0.png": ("", "x"), "a/1.png": ("", "y")}
    assert "1 x file that no table names, packed with what lies beside it" in listing.said


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        (
            "captions_val.json",
            '{"annotations": [{"image_id": 1, "caption": "a"}]}',
            "the file captions_val.json",
        ),
        ("captions.txt", "0.png\ta cat", "the file captions.txt"),
        ("prompts.txt", "a cat", "the file prompts.txt"),
        ("list.txt", "0.png\ta nice cat\n", "the file list.txt"),
        ("metadata.xlsx", b"PK", "the file metadata.xlsx"),
        ("list.csv", "id,caption\n0,a cat\n", "column 'caption' of list.csv; columns.path=id takes it"),
    ],
)
def test_files_that_may_hold_the_captions_are_refused_by_name(
    tmp_path: Path, name: str, content: str | bytes, what: str
) -> None:
    files = {**pictures("0.png"), name: content}
    with pytest.raises(UserError, match=f"no sample has a caption.*{what}.*captions=none"):
        listed(tmp_path, files)
    assert len(listed(tmp_path, files, captions="none").items) == 1
    files["0.txt"] = "a cat"
    assert listed(tmp_path, files).texts == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [("dataset.json", '{"labels": {"0.png": 3}}'), ("val.txt", "0.png 3\n"), ("val.lst", "0 3 0.png\n")],
)
def test_files_that_may_hold_the_labels_are_refused_by_name(tmp_path: Path, name: str, content: str) -> None:
    files = {**pictures("0.png"), name: content}
    with pytest.raises(UserError, match=f"no sample has a label.*the file {name}.*classes=false"):
        listed(tmp_path, files)
    assert len(listed(tmp_path, files, classes=False).items) == 1


def test_lists_of_names_and_notes_fill_no_role(tmp_path: Path) -> None:
    notes = "made in spring\nwith care\n0.png is the best\n"
    listing = listed(
        tmp_path, {**pictures("0.png", "1.png"), "all.txt": "0.png\n1.png\n", "notes.txt": notes}
    )
    assert listing.ignored[".txt"] == 2


def test_two_tables_of_the_same_files_are_refused_by_name(tmp_path: Path) -> None:
    rows = {"a.csv": "path,text\n0.png,a\n", "b.jsonl": lines({"path": "0.png", "text": "another"})}
    with pytest.raises(UserError, match=r"b\.jsonl: row 1: 0\.png is named by another table too \(a\.csv\)"):
        listed(tmp_path, {**pictures("0.png", "1.png"), **rows})
    place(tmp_path, {"b.jsonl": lines({"path": "1.png", "text": "another"})})
    assert len(list_source(tmp_path).items) == 2
    assert len(list_source(tmp_path / "a.csv").items) == 1


def test_rows_of_one_file_are_counted(tmp_path: Path) -> None:
    listing = listed(tmp_path, {**pictures("0.png"), "a.csv": "path,text\n0.png,a\n0.png,b\n"})
    assert len(listing.items) == 2
    assert "1 x row of a file that a row before names too, each a sample" in listing.said


def test_a_table_of_files_with_a_column_twice_is_refused_as_such(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the column 'text' is there twice"):
        listed(tmp_path, {**pictures("0.png"), "a.csv": "path,text,text\n0.png,a,b\n"})


def test_two_lists_of_other_lengths_are_refused(tmp_path: Path) -> None:
    files = {**pictures("0.png"), "prompts.txt": "a\nb\n", "videos.txt": "0.png\n"}
    with pytest.raises(UserError, match=r"prompts.txt has 2 lines, videos.txt 1; line k"):
        listed(tmp_path, files)


def test_kohya_folders_are_no_classes_unless_asked(tmp_path: Path) -> None:
    files = {
        **pictures("10_dog/0.png", "2_cat/1.png"),
        "10_dog/0.caption": "a dog",
        "2_cat/1.caption": "a cat",
    }
    listing = listed(tmp_path, files)
    assert told(listing) == {"10_dog/0.png": ("", "a dog"), "2_cat/1.png": ("", "a cat")}
    assert [item.more for item in listing.items] == [{"repeats": 10}, {"repeats": 2}]
    assert "1 file of 10_dog, 1 file of 2_cat" in listing.said[0]
    assert list_source(tmp_path, SourceRules(classes=True)).classes == ("cat", "dog")


def test_kohya_folders_may_lie_in_folders_of_its_interface(tmp_path: Path) -> None:
    files = {**pictures("img/10_dog/0.png", "reg/1_dog/1.png"), "img/10_dog/0.caption": "a dog"}
    listing = listed(tmp_path, files)
    assert listing.classes == ()
    assert [item.more["repeats"] for item in listing.items] == [10, 1]


def test_kohyas_metadata_names_pictures_without_suffix(tmp_path: Path) -> None:
    content = {"0": {"caption": "a cat", "tags": "cat"}, "1": {"caption": "a dog"}}
    listing = listed(tmp_path, {**pictures("0.png", "1.png"), "meta_cap.json": json.dumps(content)})
    assert told(listing) == {"0.png": ("", "a cat"), "1.png": ("", "a dog")}


@pytest.mark.parametrize(("suffix", "delimiter"), [("csv", ","), ("tab", "\t")])
def test_a_remark_above_the_header_hides_no_captions(tmp_path: Path, suffix: str, delimiter: str) -> None:
    table = "# made by hand\nfile_name,text\n0.png,a cat\n1.png,a dog\n".replace(",", delimiter)
    with pytest.raises(
        UserError, match=rf"no sample has a caption.*the file metadata\.{suffix}; a first line such"
    ):
        listed(tmp_path, {**pictures("0.png", "1.png"), f"metadata.{suffix}": table})


@pytest.mark.parametrize(
    "caption",
    [
        *({f"0.{suffix}": "a red cat"} for suffix in ("txt", "caption", "prompt", "text", "caption.txt")),
        {"0.outputs.txt": "a red cat"},
        *({f"0.{suffix}": '{"caption": "a red cat"}'} for suffix in ("json", "info.json", "png.json")),
        {"0.txt": "\ufeffa red cat", "0.json": '{"caption": "another"}', "0.cls": "\ufeff0"},
    ],
    ids=lambda caption: "+".join(caption),
)
@pytest.mark.parametrize("media", ["0.png", "0.input.png"])
def test_members_of_tars_that_hold_captions(
    tmp_path: Path, caption: dict[str, str | bytes], media: str
) -> None:
    listing = listed(tmp_path, {"a.tar": tar({media: PNG, **caption})})
    assert [item.text for item in listing.items] == ["a red cat"]


def test_a_member_that_looks_like_a_caption_is_refused_by_name_or_taken(tmp_path: Path) -> None:
    files = {"a.tar": tar({"0.png": PNG, "0.tags": "red, cat", "0.npy": b"\x93NUMPY\0"})}
    with pytest.raises(UserError, match=r"no sample has a caption.*1 .tags; captions=tags takes it"):
        listed(tmp_path, files)
    assert [item.text for item in listed(tmp_path, files, captions="tags").items] == ["red, cat"]
    none = listed(tmp_path, files, captions="none")
    assert (none.texts, none.ignored) == (0, {".npy": 1})
    assert "not used: 1 .tags" in none.said
    with pytest.raises(UserError, match="captions=foo: expected none, or the suffix"):
        listed(tmp_path, files, captions="foo")


def test_a_second_caption_is_counted_and_can_be_chosen(tmp_path: Path) -> None:
    files = {**pictures("0.png"), "0.txt": "tags", "0.caption": "a sentence"}
    assert "1 x a second caption in .caption, not used" in listed(tmp_path, files).said
    assert told(listed(tmp_path, files, captions="caption")) == {"0.png": ("", "a sentence")}


def test_numbered_folders_of_img2dataset_are_no_classes(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    for shard in ("00000", "00001"):
        files = {f"{shard}/{shard}0.txt": "c", f"{shard}/{shard}0.json": '{"caption": "c", "url": "u"}'}
        place(tmp_path, {**pictures(f"{shard}/{shard}0.png"), **files, f"{shard}_stats.json": "{}"})
        parquet.write_table(pyarrow.table({"caption": ["c"], "url": ["u"]}), tmp_path / f"{shard}.parquet")
    listing = list_source(tmp_path)
    assert (listing.classes, listing.texts) == ((), 2)
    assert "folders as img2dataset numbers them are no classes: 00000, 00001" in listing.said
    assert listing.ignored == {"beside tars or numbered folders, repeating them": 4}
    assert listed(tmp_path / "mnist", pictures("0/a.png", "1/b.png")).classes == ("0", "1")


@pytest.mark.parametrize(
    ("name", "content", "role"),
    [
        ("descriptions/0.txt", "a cat", "caption"),
        ("labels/0.txt", "3", "label"),
        ("meta/a/0.json", '{"text": "a"}', "caption"),
    ],
)
def test_captions_in_a_folder_of_their_own_are_never_passed_over(
    tmp_path: Path, name: str, content: str, role: str
) -> None:
    files = {**pictures("images/0.png", "images/1.png"), name: content}
    what = f"1 {name.partition('/')[0]}/*{Path(name).suffix}"
    with pytest.raises(UserError, match=f"no sample has a {role}.*{re.escape(what)}; moving them beside"):
        listed(tmp_path, files)


@pytest.mark.parametrize(
    ("picture_file", "caption_file", "class_name"),
    [
        ("images/0.png", "captions/0.txt", ""),
        ("0.png", "captions/0.txt", ""),
        ("cat/0.png", "captions/cat/0.txt", "cat"),
        ("images/cat/0.png", "captions/cat/0.caption", "cat"),
        ("Images/0.png", "Text/0.txt", ""),
    ],
)
def test_captions_in_a_folder_of_that_name_are_paired_by_name(
    tmp_path: Path, picture_file: str, caption_file: str, class_name: str
) -> None:
    listing = listed(tmp_path, {**pictures(picture_file), caption_file: "a cat"})
    assert told(listing) == {picture_file: (class_name, "a cat")}


def test_a_caption_that_two_pictures_are_called_after_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no sample has a caption.*captions/\*\.txt"):
        listed(tmp_path, {**pictures("images/0.png", "photos/0.png"), "captions/0.txt": "a cat"})


def test_folders_that_name_a_kind_of_media_are_no_classes(tmp_path: Path) -> None:
    listing = listed(tmp_path, pictures("images/0.png", "Videos/1.png"))
    assert listing.classes == ()
    assert "what lies in Videos, images is of no class by that name (classes=true takes it)" in listing.said
    assert list_source(tmp_path, SourceRules(classes=True)).classes == ("Videos", "images")
    assert listed(tmp_path, pictures("cat/0.png")).classes == ("Videos", "cat", "images")
    assert listed(tmp_path / "in", pictures("images/dog/0.png", "images/cat/1.png")).classes == ("cat", "dog")


def test_names_of_tables_with_pictures_are_classes_where_asked_and_said_otherwise(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    for word in ("cat", "dog"):
        table = pyarrow.table({"image": [{"bytes": PNG, "path": "0.png"}]})
        parquet.write_table(table, tmp_path / f"{word}.parquet")
    listing = list_source(tmp_path)
    assert listing.classes == ()
    assert any("names of tables (cat, dog) are no classes" in line for line in listing.said)
    assert list_source(tmp_path, SourceRules(classes=True)).classes == ("cat", "dog")


def test_archives_are_counted_and_named(tmp_path: Path) -> None:
    assert listed(tmp_path, {**pictures("0.png"), "a.tgz": b"x", "b.zip": b"x"}).said == (
        "passed over: 2 archives, not opened (unpack it to read it)",
    )
    with pytest.raises(UserError, match=r"found 1 archive, not opened \(unpack it to read it\)"):
        listed(tmp_path / "alone", {"a.tar.gz": b"x"})


CARRIERS = {
    "txt and caption": ({"0.txt": "tags", "0.caption": "a sentence"}, "tags", "caption"),
    "txt and json": ({"0.txt": "tags", "0.json": '{"caption": "a sentence"}'}, "tags", "json"),
    "several in json": ({"0.txt": "tags", "0.json": '{"captions": ["tags", "a sentence"]}'}, "tags", "json"),
    "the same in json": ({"0.txt": "tags", "0.json": '{"caption": "tags"}'}, "tags", ""),
    "an empty txt": ({"0.txt": " ", "0.json": '{"caption": "a sentence"}'}, "a sentence", ""),
}


@pytest.mark.parametrize("in_tar", [True, False])
@pytest.mark.parametrize("name", CARRIERS)
def test_second_captions_are_counted_in_tars_as_in_folders(tmp_path: Path, name: str, in_tar: bool) -> None:
    files, text, unused = CARRIERS[name]
    members = {**pictures("0.png"), **files}
    listing = listed(tmp_path, {"a.tar": tar(members)} if in_tar else members)
    assert [item.text for item in listing.items] == [text]
    said = [line for line in listing.said if "a second caption" in line]
    assert said == ([f"1 x a second caption in .{unused}, not used"] if unused else [])


def test_a_second_label_is_counted_and_an_empty_one_hides_none(tmp_path: Path) -> None:
    members = {**pictures("0.png", "1.png", "2.png"), "0.cls": "1", "0.json": '{"label": 1.0}'}
    members |= {"1.cls": "0", "1.json": '{"label": 1}', "2.cls": "", "2.json": '{"label": 1}'}
    listing = listed(tmp_path, {"a.tar": tar(dict(sorted(members.items())))})
    assert [item.label for item in listing.items] == [1, 0, 1]
    assert "1 x a label in .json that differs from .cls, not used" in listing.said


def test_numbers_mixed_with_names_of_classes_are_refused_by_both(tmp_path: Path) -> None:
    members = {**pictures("0.png", "1.png", "2.png"), "0.cls": "1", "1.cls": "dog", "2.cls": "0"}
    expected = r"a.tar/1.png is of class 'dog', which has no number, and a.tar/0.png of class 1; write all"
    with pytest.raises(UserError, match=expected):
        listed(tmp_path, {"a.tar": tar(dict(sorted(members.items())))})


def test_companions_of_img2dataset_are_no_tables(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    fields = {"caption": "c", "url": "u", "key": "000", "status": "success", "exif": "{}", "width": 16}
    members = {"000.png": PNG, "000.txt": "c", "000.json": json.dumps(fields)}
    place(tmp_path, {"00000.tar": tar(members), "00000_stats.json": '{"count": 1}'})
    parquet.write_table(pyarrow.table({"caption": ["c"], "url": ["u"]}), tmp_path / "00000.parquet")
    listing = list_source(tmp_path)
    assert told(listing) == {"00000.tar/000.png": ("", "c")}
    assert listing.ignored == {"beside tars or numbered folders, repeating them": 2}


def test_everything_damaged_is_named_at_once(tmp_path: Path) -> None:
    whole = tar(pictures("0.png", "1.png"))
    files = {"a.tar": whole[:1024], "b.tar": whole[:2048], "c.tar": whole, "d.csv": "path,text\na.png\n"}
    with pytest.raises(WorkError, match=r"3 files .*d.csv: the header.*a.tar: truncated.*b.tar: truncated"):
        listed(tmp_path, files)


def test_tables_and_tars_within_a_tar_are_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no sample has a caption.*the table a.tar/metadata.csv; to unpack"):
        listed(tmp_path, {"a.tar": tar({"metadata.csv": "file_name,text\n0.png,x\n", "0.png": PNG})})
    with pytest.raises(UserError, match=r"holds the tar n01.tar; unpack it first"):
        listed(tmp_path, {"a.tar": tar({"n01.tar": tar(pictures("0.png"))})})


def test_what_was_found_is_packed_counted_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = {**pictures("in/10_dog/0.png", "in/10_dog/1.png"), "in/10_dog/0.json": '{"captions": ["a", "b"]}'}
    place(tmp_path, files)
    run(Config(source=str(tmp_path / "in"), output=str(tmp_path / "out")))
    dataset = Dataset(tmp_path / "out")
    packed = {s["source"]: s for s in (json.loads(dataset.read(row)["json"]) for row in range(2))}
    assert (
        packed["10_dog/0.png"] | {"text": "a", "texts": ["a", "b"], "repeats": 10} == packed["10_dog/0.png"]
    )
    assert "texts" not in packed["10_dog/1.png"]
    assert dataset.manifest.extra["texts"] == 1
    assert "1 of 2 samples with text, 0 with a label (0 classes)" in capsys.readouterr().err


def test_a_tar_with_a_global_header_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    place(tmp_path, {"in/0.png": PNG, "in/0.txt": "x"})
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT, pax_headers={"comment": "x" * 600}) as out:
        out.add(tmp_path / "in/0.png", "0.png")
        out.add(tmp_path / "in/0.txt", "0.txt")
    assert told(list_source(path)) == {"a.tar/0.png": ("", "x")}
