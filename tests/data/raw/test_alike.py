"""What tables and files beside pictures say in other words than the reader expects is found, or refused."""

from __future__ import annotations

import bz2
import gzip
import json
import unicodedata
from pathlib import Path

import pytest

from core.errors import UserError
from data.dataset.quarantine import QuarantineEntry, kinds_of
from data.raw.annotations.roles import ColumnsConfig
from data.raw.ingest import Listing
from data.raw.layouts.named.alike import OTHERWISE, Alike
from tests.data.raw.sources import PNG, listed, pictures, told

COMPOSED = unicodedata.normalize("NFC", "café")
DECOMPOSED = unicodedata.normalize("NFD", "café")


def texts(listing: Listing) -> dict[str, str]:
    return {name: text for name, (_, text) in told(listing).items()}


@pytest.mark.parametrize(
    ("files", "named"),
    [
        (("images/a/0.png", "images/b/1.png"), ("a/0.png", "b/1.png")),
        (("flickr_images/0.png", "flickr_images/1.png"), ("0.png", "1.png")),
        (("0.png", "1.png"), ("0", "1")),
        (("train2017/0.png", "val2017/1.png"), ("0", "1")),
        (("Img_0.PNG", "1.png"), ("IMG_0.png", "1.png")),
        ((f"{DECOMPOSED}.png", "1.png"), (f"{COMPOSED}.png", "1.png")),
    ],
    ids=["below a folder", "in another folder", "no suffix", "both", "case", "unicode"],
)
def test_a_file_that_a_table_calls_otherwise_is_found_and_counted(
    tmp_path: Path, files: tuple[str, str], named: tuple[str, str]
) -> None:
    table = "file_name,text\n" + "".join(f"{name},t{k}\n" for k, name in enumerate(named))
    listing = listed(tmp_path, {**pictures(*files), "metadata.csv": table})
    assert texts(listing) == {name: f"t{k}" for k, name in enumerate(files)}
    count = sum(wanted != found for wanted, found in zip(named, files, strict=True))
    is_in_images = files[0].startswith("images/")  # looked for there in any case
    assert (f"{count} x {OTHERWISE}" in listing.said) is not is_in_images


def test_of_several_files_that_a_row_may_mean_none_is_taken(tmp_path: Path) -> None:
    files = pictures("x/a/0.png", "x/b/0.png", "x/b/1.png")
    listing = listed(tmp_path, {**files, "metadata.csv": "file_name,text\n0.png,t0\n1.png,t1\n"})
    refused = {item.name: item.refused for item in listing.items if item.refused}
    assert refused == {"0.png": ("read", "not there, and 2 files are called so: x/a/0.png, x/b/0.png")}
    assert texts(listing)["x/b/1.png"] == "t1"


def test_the_name_as_it_is_written_wins_over_one_in_other_case(tmp_path: Path) -> None:
    listing = listed(
        tmp_path, {**pictures("x/A.png", "x/a.png"), "metadata.csv": "file_name,text\nA.png,t\na.png,u\n"}
    )
    assert texts(listing) == {"x/A.png": "t", "x/a.png": "u"}


def test_files_are_looked_for_below_the_tables_folder_alone() -> None:
    alike = Alike(["one/x/0.png", "two/0.png", "two/10.png"])
    assert alike.find("one", "0.png") == ["one/x/0.png"]
    assert alike.find("", "two/0.png") == ["two/0.png"]
    assert alike.find("three", "0.png") == []
    assert alike.find("two", "0.jpg") == ["two/0.png"]
    assert alike.find("", "0.jpg") == ["one/x/0.png", "two/0.png"]
    assert alike.find("", "0.mp4") == []


def test_a_caption_of_another_unicode_form_belongs_to_its_picture(tmp_path: Path) -> None:
    files = {f"{DECOMPOSED}.png": PNG, f"{COMPOSED}.txt": "t0", f"captions/{DECOMPOSED} 2.txt": "t1"}
    listing = listed(tmp_path, {**files, f"{COMPOSED} 2.png": PNG})
    assert sorted(texts(listing).values()) == ["t0", "t1"]


@pytest.mark.parametrize("name", ["description", "tags", "note"])
def test_fields_of_json_that_look_like_captions_are_not_lost(tmp_path: Path, name: str) -> None:
    rest = {"id": 3, "date": "2024-01-01 10:00"}
    files = {f"{k}.png.json": json.dumps({name: f"a text of {k}", **rest}) for k in (0, 1)}
    with pytest.raises(UserError, match=f"field '{name}' of .json files; columns.text={name} takes it"):
        listed(tmp_path, {**pictures("0.png", "1.png"), **files})
    taken = listed(tmp_path, {}, columns=ColumnsConfig(text=name))
    assert texts(taken) == {"0.png": "a text of 0", "1.png": "a text of 1"}
    none = listed(tmp_path, {}, captions="none")
    assert any("field" in line and name in line and "date" in line for line in none.said)


def test_fields_of_json_are_told_and_not_refused_beside_a_caption(tmp_path: Path) -> None:
    files = {"0.json": json.dumps({"caption": "t", "description": "a longer text", "id": 3})}
    listing = listed(tmp_path, {**pictures("0.png"), **files})
    assert texts(listing) == {"0.png": "t"}
    assert "not used: field 'description' of .json files, field 'id' of .json files" in listing.said


@pytest.mark.parametrize("name", ["metadata.csv.gz", "rows.jsonl.bz2"])
def test_a_compressed_table_is_not_passed_over(tmp_path: Path, name: str) -> None:
    pack = gzip.compress if name.endswith(".gz") else bz2.compress
    with pytest.raises(UserError, match=f"unpacking {name} takes it"):
        listed(tmp_path, {**pictures("0.png"), name: pack(b"file_name,text\n0.png,t0\n")})


def test_a_list_that_is_no_table_is_told_what_makes_it_one(tmp_path: Path) -> None:
    files = {**pictures("0.png", "1.png"), "captions.txt": "0.png,t0\n1.png,t1\n"}
    with pytest.raises(UserError, match=r"captions.txt; the suffix .csv or .tsv, and a first line such as"):
        listed(tmp_path, files)


def test_recycled_files_of_a_network_disk_are_no_class(tmp_path: Path) -> None:
    listing = listed(tmp_path, pictures("cat/0.png", "dog/1.png", "#recycle/2.png", "@Recycle/3.png"))
    assert [name for name, _ in told(listing).values()] == ["cat", "dog"]
    assert "passed over: 2 of the system" in listing.said


def test_kinds_of_faults_are_shown_as_they_are_where_all_are_alike() -> None:
    def entry(number: int, error: str) -> QuarantineEntry:
        return QuarantineEntry(id=str(number), stage="decode", error=error)

    one = [entry(k, "is a JPEG 2000 file, at most 512 pixels") for k in (0, 1)]
    assert kinds_of(one) == "2 x decode: is a JPEG 2000 file, at most 512 pixels"
    two = [*one, entry(2, "is a JPEG 2000 file, at most 64 pixels")]
    assert kinds_of(two) == "3 x decode: is a JPEG 2000 file, at most N pixels"


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ("0 1.png", "0%201.png"),
        ("0.png", " 0.png "),
        ("0.png", "pictures/0.png"),
        ("a/0.png", "pictures/a/0.png"),
    ],
    ids=["encoded", "spaces", "from above", "from above, deeper"],
)
def test_a_path_that_is_written_otherwise_is_found_and_counted(
    tmp_path: Path, files: str, named: str
) -> None:
    table = json.dumps({"file_name": named, "text": "t"})
    listing = listed(tmp_path / "pictures", {**pictures(files), "metadata.jsonl": table})
    assert texts(listing) == {files: "t"}
    assert f"1 x {OTHERWISE}" in listing.said


@pytest.mark.parametrize("form", ["{}", "file://{}", "file://localhost{}"])
@pytest.mark.parametrize("is_relative", [False, True])
def test_an_absolute_path_within_the_source_is_of_the_source(
    tmp_path: Path, form: str, is_relative: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = tmp_path.name  # what a relative folder is, is remembered
    root = Path(name) if is_relative else tmp_path / name
    table = f"file_name,text\n{form.format(tmp_path / name / 'a' / '0.png')},t\n"
    listing = listed(root, {**pictures("a/0.png"), "tables/metadata.csv": table})
    assert texts(listing) == {"a/0.png": "t"}


def test_words_for_nothing_are_no_captions(tmp_path: Path) -> None:
    words = [r"\N", "N/A", "n/a", "#N/A", "a text"]
    table = "file_name,text\n" + "".join(f"{k}.png,{word}\n" for k, word in enumerate(words))
    listing = listed(tmp_path, {**pictures(*(f"{k}.png" for k in range(5))), "metadata.csv": table})
    assert [name for name, text in texts(listing).items() if text] == ["4.png"]


def test_captions_of_samples_called_by_number_are_not_lost(tmp_path: Path) -> None:
    rows = {"sentences": [{"video_id": "0", "caption": "a man"}], "videos": [{"video_id": "0"}]}
    assert list(texts(listed(tmp_path, {**pictures("v/0.png"), "info.json": json.dumps(rows)})).values()) == [
        "a man"
    ]
    other = {"captions": [{"video": "0", "caption": "a man"}], "films": [{"number": "0"}]}
    with pytest.raises(UserError, match="the file info"):
        listed(tmp_path, {**pictures("v/0.png"), "info.json": json.dumps(other)})


def test_classes_that_differ_in_case_alone_are_told(tmp_path: Path) -> None:
    listing = listed(tmp_path, pictures("Cat/0.png", "cat/1.png", "dog/2.png"))
    assert listing.classes == ("Cat", "cat", "dog")
    assert (
        "warning: classes that differ in case, spaces or Unicode form alone stay apart: Cat and cat"
        in listing.said
    )
