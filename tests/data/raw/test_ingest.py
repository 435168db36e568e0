"""Sources: folders, tables, tars, captions; what is wrong is named."""

import csv
import json
import os
from pathlib import Path

import pytest

from core.errors import UserError, WorkError
from data.media.formats import DEFAULT_LIMITS, MediaError, MediaLimits
from data.raw.ingest import Listing, list_source
from tests.data.samples import image_bytes, image_folder, picture, tar_bytes

PNG = image_bytes(picture())
LATIN = "; encoding=cp1252 reads 'café', cp1251 reads 'cafй'"


def brief(listing: Listing) -> list[tuple[str, int, str]]:
    return [(item.name, item.label, item.text) for item in listing.items]


def test_image_folder_gives_sorted_classes_and_files(tmp_path: Path) -> None:
    listing = list_source(image_folder(tmp_path / "in", ("dog", "cat"), each=2))
    assert listing.classes == ("cat", "dog")
    assert brief(listing) == [
        ("cat/0.png", 0, ""),
        ("cat/1.png", 0, ""),
        ("dog/0.png", 1, ""),
        ("dog/1.png", 1, ""),
    ]
    assert listing.items[2].read(DEFAULT_LIMITS) == (tmp_path / "in/dog/0.png").read_bytes()


def test_plain_folder_has_no_classes_and_counts_what_it_ignores(tmp_path: Path) -> None:
    for name in ("b.PNG", "a.jpeg", "c.mp4", "notes.md", ".hidden.png", "d.xcf", "e.XCF"):
        (tmp_path / name).write_bytes(PNG)
    (tmp_path / "elsewhere").symlink_to("/usr")
    listing = list_source(tmp_path)
    assert brief(listing) == [("a.jpeg", -1, ""), ("b.PNG", -1, ""), ("c.mp4", -1, "")]
    assert listing.classes == ()
    assert listing.ignored == {".md": 1, ".xcf": 2, "hidden": 1, "linked folder": 1}


def test_captions_beside_files(tmp_path: Path) -> None:
    for name in "abc":
        (tmp_path / f"{name}.png").write_bytes(PNG)
    (tmp_path / "a.txt").write_text("ein Löwe\n", encoding="utf-8")
    (tmp_path / "b.json").write_text(json.dumps({"caption": "a cat", "class": "cat", "score": 0.5}))
    (tmp_path / "c.txt").write_bytes(b"caf\xe9")
    listing = list_source(tmp_path)
    assert brief(listing)[:2] == [("a.png", -1, "ein Löwe"), ("b.png", 0, "a cat")]
    assert listing.items[2].refused == ("caption", "caption is not UTF-8 (byte 3)" + LATIN)
    assert (listing.classes, listing.ignored) == (("cat",), {})


@pytest.mark.parametrize(
    ("content", "stage"),
    [
        ("[1]", "caption"),
        ("{", "caption"),
        ('{"text": 5}', "caption"),
        ('{"label": 1.5}', "label"),
        ('{"label": -7}', "label"),
    ],
)
def test_bad_caption_file_refuses_its_sample_alone(tmp_path: Path, content: str, stage: str) -> None:
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(PNG)
    (tmp_path / "a.json").write_text(content)
    refused = [item.refused and item.refused[0] for item in list_source(tmp_path).items]
    assert refused == [stage, None]


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"source=.*nowhere: expected an existing folder, a table"):
        list_source(tmp_path / "nowhere")


def test_empty_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"expected at least one image or video .* found nothing"):
        list_source(tmp_path)


def test_folder_without_readable_file(tmp_path: Path) -> None:
    (tmp_path / "readme.txt").write_text("hello")
    (tmp_path / "b.docx").write_text("hello")
    with pytest.raises(UserError, match=r"at least one image or video .* found 1 .docx, 1 .txt"):
        list_source(tmp_path)


def test_a_file_that_is_no_source(tmp_path: Path) -> None:
    (tmp_path / "a.xlsx").write_bytes(b"")
    with pytest.raises(
        UserError,
        match=r"expected an existing folder, a table \(.csv .tsv .tab .jsonl .ndjson .json .parquet\)",
    ):
        list_source(tmp_path / "a.xlsx")


def test_a_single_picture_belongs_into_a_folder(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    with pytest.raises(UserError, match=r"a\.png: expected .*single picture or film: give the folder"):
        list_source(tmp_path / "a.png")


def table(folder: Path, suffix: str, rows: list[dict[str, object]]) -> Path:
    path = folder / f"table{suffix}"
    if suffix == ".csv":
        with open(path, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    elif suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pyarrow = pytest.importorskip("pyarrow")
        from pyarrow import parquet

        parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_tables(tmp_path: Path, suffix: str) -> None:
    image_folder(tmp_path / "in", ("x",), 2)
    rows: list[dict[str, object]] = [
        {"path": "in/x/1.png", "class": "zebra", "text": 'a "striped", horse\nof a kind'},
        {"path": str(tmp_path / "in/x/0.png"), "class": "ape", "text": ""},
        {"path": "in/x/7.png", "class": "ape", "text": "gone"},
    ]
    listing = list_source(table(tmp_path, suffix, rows))
    assert listing.classes == ("ape", "zebra")
    assert brief(listing)[:2] == [("in/x/1.png", 1, rows[0]["text"]), ("in/x/0.png", 0, "")]
    assert listing.items[2].refused == ("read", "No such file or directory")


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_table_with_a_missing_column(tmp_path: Path, suffix: str) -> None:
    path = table(tmp_path, suffix, [{"file": "a.png", "text": "x"}])
    with pytest.raises(UserError, match=r"the column 'path' is missing; it has: file, text"):
        list_source(path)


def test_caption_that_is_not_utf8_refuses_its_row_alone(tmp_path: Path) -> None:
    image_folder(tmp_path, ("x",), 1)
    reason = "column 'text': not UTF-8 (byte 0xe9)"
    reasons = {
        "a.csv": f"line 2, {reason}{LATIN.replace('it', 'the table')}",
        "a.jsonl": f"line 1, {reason}{LATIN.replace('it', 'the table')}",
        "a.parquet": reason,  # always UTF-8, whatever `encoding` says
    }
    (tmp_path / "a.csv").write_bytes(b"path,text\nx/0.png,caf\xe9\nx/0.png,caf\xc3\xa9\n")
    (tmp_path / "a.jsonl").write_bytes(
        b'{"path": "x/0.png", "text": "caf\xe9"}\n{"path": "x/0.png", "text": "caf\xc3\xa9"}\n'
    )
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    binary = pyarrow.array([b"caf\xe9", b"caf\xc3\xa9"], pyarrow.binary())
    text = pyarrow.StringArray.from_buffers(
        2, binary.buffers()[1], binary.buffers()[2]
    )  # unchecked, as in a file
    parquet.write_table(pyarrow.table({"path": ["x/0.png"] * 2, "text": text}), tmp_path / "a.parquet")
    for name, why in reasons.items():
        listing = list_source(tmp_path / name)
        assert [item.refused for item in listing.items] == [("caption", why), None]
        assert listing.items[1].text == "café"


def test_bad_rows_are_refused_alone(tmp_path: Path) -> None:
    image_folder(tmp_path, ("x",), 1)
    (tmp_path / "a.jsonl").write_text(
        '{"path": "x/0.png"}\n{"path": \n[]\n{"text": "no path"}\n\n{"path": "x\\u0000"}\n'
    )
    items = list_source(tmp_path / "a.jsonl").items
    assert [item.refused and item.refused[0] for item in items] == [None, "list", "list", "list", "read"]
    assert items[1].name == "a.jsonl:2"


def test_damaged_parquet_is_a_users_mistake(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing")
    with pytest.raises(UserError, match="not a readable Parquet file"):
        list_source(tmp_path / "a.parquet")


def test_numbers_given_as_labels_are_kept(tmp_path: Path) -> None:
    image_folder(tmp_path, ("x",), 1)
    (tmp_path / "a.csv").write_text("path,label,class\nx/0.png,3,\nx/0.png,1,one\nx/0.png,,\n")
    listing = list_source(tmp_path / "a.csv")
    assert [item.label for item in listing.items] == [3, 1, -1]
    assert listing.classes == ("0", "one", "2", "3")


def test_names_in_the_label_column_are_classes(tmp_path: Path) -> None:
    image_folder(tmp_path, ("x",), 1)
    (tmp_path / "a.csv").write_text("path,label\nx/0.png,dog\nx/0.png,cat\n")
    listing = list_source(tmp_path / "a.csv")
    assert (listing.classes, [item.label for item in listing.items]) == (("cat", "dog"), [1, 0])


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("x/0.png,0,cat\nx/0.png,0,dog\n", "label 0 is class 'dog' and 'cat'"),
        ("x/0.png,0,cat\nx/0.png,1,cat\n", "class 'cat' has more than one label"),
        ("x/0.png,0,cat\nx/0.png,,dog\n", "is of class 'dog', which has no number, and .* of class 0"),
        ("x/0.png,2000000000,cat\n", "label=2000000000: expected a class number below 1000000"),
    ],
)
def test_labels_that_contradict_are_refused(tmp_path: Path, rows: str, message: str) -> None:
    image_folder(tmp_path, ("x",), 1)
    (tmp_path / "a.csv").write_text("path,label,class\n" + rows)
    with pytest.raises(UserError, match=message):
        list_source(tmp_path / "a.csv")


def test_tar_samples_with_captions_and_labels(tmp_path: Path) -> None:
    members = [
        ("k/0.cls", b"1"),
        ("k/0.png", PNG),
        ("k/1.jpg", PNG),
        ("k/1.json", b'{"label": 0, "class": "zero", "text": "t", "path": "/etc/passwd"}'),
        ("k/2.txt", b"only words"),
        ("k/3.JPG", PNG),
        ("k/3.txt", b"\xff"),
        ("../4.png", PNG),
    ]
    (tmp_path / "a.tar").write_bytes(tar_bytes(members))
    listing = list_source(tmp_path)
    assert brief(listing)[:2] == [("a.tar/k/0.png", 1, ""), ("a.tar/k/1.jpg", 0, "t")]
    assert listing.items[0].read(DEFAULT_LIMITS) == PNG
    assert [item.refused for item in listing.items[2:]] == [
        ("list", "has 0 images or videos, expected 1; its members: txt"),
        ("caption", "caption is not UTF-8 (byte 0); encoding=cp1252 reads 'ÿ', cp1251 reads 'я'"),
        ("list", "member's name leads out of its folder"),
    ]
    assert listing.classes == ("zero", "1")
    assert list_source(tmp_path / "a.tar").classes == listing.classes


def test_damaged_tar_is_an_error_and_not_a_shorter_list(tmp_path: Path) -> None:
    data = tar_bytes([("0.png", PNG), ("1.png", PNG)])
    (tmp_path / "a.tar").write_bytes(data[:1024])  # cut between the samples
    with pytest.raises(WorkError, match=r"a.tar: truncated tar"):
        list_source(tmp_path)


def test_names_that_are_not_utf8_stay_readable(tmp_path: Path) -> None:
    folder = os.fsencode(tmp_path) + b"/caf\xe9"
    os.mkdir(folder)
    with open(folder + b"/a\xff.png", "wb") as file:
        file.write(PNG)
    listing = list_source(tmp_path)
    assert (listing.items[0].name, listing.classes) == ("caf\\xe9/a\\xff.png", ("caf\\xe9",))
    assert listing.items[0].read(DEFAULT_LIMITS) == PNG


def test_reading_checks_size_and_change(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(PNG)
    item = list_source(tmp_path).items[0]
    with pytest.raises(MediaError, match="the limit is 10"):
        item.read(MediaLimits(bytes=10))
    for changed in (PNG + b"more", PNG[:-1]):
        (tmp_path / "a.png").write_bytes(changed)
        with pytest.raises(MediaError, match="its size changed"):
            item.read(DEFAULT_LIMITS)
    (tmp_path / "a.png").unlink()
    with pytest.raises(MediaError, match="No such file"):
        item.read(DEFAULT_LIMITS)
