"""Datasets in the forms that trainers and download tools write, also beside what else these leave there."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from core.errors import UserError
from data.raw.annotations.roles import ColumnsConfig
from data.raw.ingest import list_source
from data.raw.rules import SourceRules
from tests.data.raw.sources import PNG, lines, listed, pictures, place, tar
from tests.data.raw.test_row_annotation import parquet


@pytest.mark.parametrize(
    ("table", "column"),
    [
        ({"metadata.csv": "image,prompt,edit_image\n0.png,red,1.png\n"}, "edit_image"),  # DiffSynth
        ({"metadata.json": json.dumps([{"image": "0.png", "prompt": "red", "edit_image": ["1.png"]}])}, ""),
        (
            {"a.jsonl": lines({"image_path": "0.png", "control_path": "1.png", "caption": "red"})},
            "",
        ),  # musubi
        (
            {"metadata.jsonl": lines({"image_file_name": "0.png", "mask_file_name": "1.png", "text": "red"})},
            "",
        ),
        (
            {
                "dataset.json": json.dumps(
                    [{"media_path": "0.png", "reference_path": "1.png", "caption": "red"}]
                )
            },
            "",
        ),
    ],
)
def test_files_that_a_table_names_in_other_columns_are_no_samples(
    tmp_path: Path, table: Mapping[str, str], column: str
) -> None:
    listing = listed(tmp_path, {**pictures("0.png", "1.png"), **table})
    assert [(item.name, item.text) for item in listing.items] == [("0.png", "red")]
    assert any("alone, which is not read" in said and f"'{column}" in said for said in listing.said)


def test_a_file_is_a_sample_where_another_row_names_it_as_such(tmp_path: Path) -> None:
    table = "image,prompt,edit_image\n0.png,red,1.png\n1.png,blue,2.png\n"
    listing = listed(tmp_path, {**pictures("0.png", "1.png", "2.png"), "metadata.csv": table})
    assert [(item.name, item.text) for item in listing.items] == [("0.png", "red"), ("1.png", "blue")]


def test_files_beside_a_picture_fill_what_its_row_leaves_open(tmp_path: Path) -> None:
    files = {**pictures("0.png", "1.png"), "0.txt": "a cat", "1.txt": "a dog", "1.json": '{"width": 3}'}
    labels = {"labels.csv": "file_name,label\n0.png,3\n1.png,4\n"}
    assert [(i.text, i.label) for i in listed(tmp_path / "a", files | labels).items] == [
        ("a cat", 3),
        ("a dog", 4),
    ]
    texts = {"metadata.csv": "file_name,text\n0.png,\n1.png,a horse\n", "0.cls": "2"}
    listing = listed(tmp_path / "b", files | texts)
    assert [(i.text, i.label) for i in listing.items] == [("a cat", 2), ("a horse", -1)]
    assert "1 x caption or label beside a file, not used: a table says another" in listing.said
    broken = {"1.json": "[1]", "1.txt": b"\xff"}
    rows = listed(tmp_path / "c", files | texts | broken).items
    assert [item.refused for item in rows] == [None, None]
    rows = listed(tmp_path / "d", files | labels | broken).items
    assert rows[0].refused is None
    assert rows[1].refused
    assert "not UTF-8" in rows[1].refused[1]


def test_downloads_that_failed_are_counted(tmp_path: Path) -> None:
    """img2dataset with `output_format=parquet` keeps a row without a picture for each."""
    status = ["success", "failed_to_download", "failed_to_resize"]
    table = parquet(
        tmp_path / "00000.parquet",
        {"caption": ["a", "b", "c"], "status": status, "jpg": [PNG, None, None]},
    )
    listing = list_source(table.parent)
    assert [(item.text, item.refused) for item in listing.items] == [("a", None)]
    assert any("2 rows without a picture, whose status says that it failed" in said for said in listing.said)


def test_files_outside_of_the_source_are_told_apart(tmp_path: Path) -> None:
    """`Dataset.to_parquet` names pictures by absolute paths."""
    place(tmp_path / "out", pictures("0.png", "1.png"))
    cells = [{"bytes": None, "path": str(tmp_path / "out" / f"{k}.png")} for k in (0, 1)]
    table = parquet(tmp_path / "in/a.parquet", {"image": cells, "text": ["a", "b"]})
    listing = list_source(table.parent, SourceRules(links="follow"))
    assert [(item.name, item.text) for item in listing.items] == [("0.png", "a"), ("1.png", "b")]
    assert not any("a row before names too" in said for said in listing.said)


CHAT = [{"from": "human", "value": "<image>\nWhat is it?"}, {"from": "gpt", "value": "A cat."}]
TURNS = [
    {"role": "user", "content": "What is it?"},
    {"role": "assistant", "content": [{"type": "image"}, {"type": "text", "text": "A cat."}]},
]


@pytest.mark.parametrize("chat", [CHAT, TURNS])
def test_of_a_conversation_the_answers_are_captions(tmp_path: Path, chat: object) -> None:
    files = {
        **pictures("images/0.png"),
        "llava.json": json.dumps([{"image": "0.png", "conversations": chat}]),
    }
    with pytest.raises(UserError, match=r"column 'conversations' .*columns.text=conversations takes it"):
        listed(tmp_path, files)
    (item,) = listed(tmp_path, files, columns=ColumnsConfig(text="conversations")).items
    assert (item.text, dict(item.more)) == ("A cat.", {})


def test_objects_without_a_text_are_no_captions(tmp_path: Path) -> None:
    """ShareGPT4Video has captions of parts, with the number of each as text."""
    row = {"video_path": "0.png", "captions": [{"idx": "-1", "content": "A film."}]}
    (item,) = listed(tmp_path, {**pictures("0.png"), "a.jsonl": lines(row)}).items
    assert item.refused
    assert item.refused[1] == "captions is a list of objects without a field `text`; they have: idx, content"


def test_numbered_pictures_of_stylegan_and_edm_have_the_labels_of_their_list(tmp_path: Path) -> None:
    names = ["00000/img00000000.png", "00000/img00000001.png"]
    listing = listed(tmp_path, {**pictures(*names), "dataset.json": '{"labels": null}'})
    assert (listing.labels, len(listing.items)) == (0, 2)
    assert any("of StyleGAN and EDM numbers them are no classes" in said for said in listing.said)
    labels = json.dumps({"labels": [[names[0], 6], [names[1], 1]]})
    assert [item.label for item in listed(tmp_path, {"dataset.json": labels}).items] == [6, 1]


def test_masks_controls_and_lists_of_trainers_are_no_samples(tmp_path: Path) -> None:
    files = {
        **pictures("0.png", "0-masklabel.png", "0-condlabel.png", "_controls/0.depth.png", "1-masklabel.png"),
        "all_image_files_mine.json": '{"0.png": false}',  # SimpleTuner
        "_latent_cache/0.safetensors": b"",
        "0.txt": "one prompt\nanother",
    }
    listing = listed(tmp_path, files)
    assert {item.name: item.text for item in listing.items} == {
        "0.png": "one prompt\nanother",
        "1-masklabel.png": "",
    }
    assert "1 x caption file of several lines, taken as one caption" in listing.said
    assert any("2 mask or condition of OneTrainer" in s and "3 of a trainer" in s for s in listing.said)


def test_a_table_may_lie_beside_the_folder_of_its_files(tmp_path: Path) -> None:
    """OpenVid has `data/train/OpenVid-1M.csv` and `video/`."""
    files = {**pictures("video/0.png"), "data/train/openvid.csv": "video,caption\n0.png,a man\n"}
    assert [(i.name, i.text) for i in listed(tmp_path / "a", files).items] == [("video/0.png", "a man")]
    table = "video,caption,control\n0.png,a man,./0_pose.png\n"
    files |= {**pictures("pose/0_pose.png"), "data/train/openvid.csv": table}
    assert [(i.name, i.text) for i in listed(tmp_path / "b", files).items] == [("video/0.png", "a man")]


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("data.xls", "", r"the file data.xls; saving it as .csv"),
        ("list.csv.zip", "", r"the file list.csv.zip; unpacking list.csv.zip"),
        ("captions.zip", "", r"the file captions.zip; unpacking it"),
        ("captions.tar.gz", "", r"the file captions.tar.gz; unpacking it"),
        ("list.yaml", "- path: 0.png\n  caption: a cat\n", r"the file list.yaml"),
        ("list.xml", '<image name="0.png"><caption>a</caption></image>', r"the file list.xml"),
    ],
)
def test_tables_in_forms_that_are_not_read_are_named(
    tmp_path: Path, name: str, content: str, what: str
) -> None:
    with pytest.raises(UserError, match=f"no sample has a caption, but not read and alike: {what}"):
        listed(tmp_path, {**pictures("0.png"), name: content})
    assert len(listed(tmp_path, {"0.txt": "a"}, classes=False).items) == 1


@pytest.mark.parametrize("name", ["a.tab", "a.ndjson"])
def test_further_suffixes_of_tables(tmp_path: Path, name: str) -> None:
    content = "path\tcaption\n0.png\ta\n" if name == "a.tab" else lines({"path": "0.png", "text": "a"})
    place(tmp_path, {**pictures("0.png"), name: content})
    for source in (tmp_path, tmp_path / name):
        assert [(i.name, i.text) for i in list_source(source).items] == [("0.png", "a")]


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        (base64.b64encode(PNG).decode(), "the picture as base64, which is not read"),
        ("data:image/png;base64,AAAA", "the picture as base64, which is not read"),
        ("{'bytes': None, 'path': '0.png'}", "an object of Python as text"),  # Dataset.to_csv
        ("'0.png'", "in single quotes, which belong to the name"),
        ("a./" * 2000, "longer than 4096 characters"),
    ],
)
def test_a_path_that_is_none_is_said_to_be(tmp_path: Path, path: str, reason: str) -> None:
    listing = listed(tmp_path, {**pictures("0.png"), "a.jsonl": lines({"path": path, "text": "a"})})
    assert [reason in item.refused[1] for item in listing.items if item.refused] == [True]


def test_fields_that_are_too_long_and_single_quotes_are_named(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"line 2: a field has more than 131072 characters; pictures as base64"
    ):
        listed(tmp_path / "a", {"a.csv": "path,text\n" + "A" * 140_000 + ",a\n"})
    with pytest.raises(UserError, match=r"names of columns in single quotes; CSV quotes with double ones"):
        listed(tmp_path / "b", {"a.csv": "'path','text'\n'0.png','a'\n"})
    listing = listed(tmp_path / "c", {**pictures("0.png"), "a.csv": "path,text\n0.png,'a'\n"})
    assert "a.csv: texts of column 'text' in single quotes, which are kept" in listing.said


def test_truth_values_decimal_commas_and_marks_within_tables(tmp_path: Path) -> None:
    table = parquet(tmp_path / "a/a.parquet", {"path": ["0.png", "1.png"], "label": [True, False]})
    place(table.parent, pictures("0.png", "1.png"))
    listing = list_source(table.parent)
    assert ([i.label for i in listing.items], listing.classes) == ([1, 0], ("false", "true"))
    joined = "\ufeffpath;label;text\n0.png;2,0;\ufeffa\n\ufeff1.png;1,5;b\n"
    one, other = listed(tmp_path / "b", {**pictures("0.png", "1.png"), "a.csv": joined}).items
    assert (one.label, one.text, one.refused) == (2, "a", None)
    assert (other.name, other.refused) == ("1.png", ("label", "label '1,5' is not a whole number"))


def test_a_field_that_json_has_twice_is_named(tmp_path: Path) -> None:
    twice = '{"path": "0.png", "text": "a", "text": "b"}'
    with pytest.raises(
        UserError, match=r"a.json: not readable JSON in utf-8: the field 'text' is there twice"
    ):
        listed(tmp_path / "a", {**pictures("0.png"), "a.json": f"[{twice}]"})
    with pytest.raises(UserError, match=r"objects line by line are called .jsonl"):
        listed(tmp_path / "b", {**pictures("0.png"), "a.json": '{"path": "0.png"}\n{"path": "0.png"}\n'})
    (item,) = listed(tmp_path / "c", {**pictures("0.png"), "0.json": twice}).items
    assert item.refused == ("caption", "bad JSON: the field 'text' is there twice")


@pytest.mark.parametrize(("column", "other"), [("split", "extra"), ("subset", "test"), ("usage", "trn")])
def test_columns_of_splits(tmp_path: Path, column: str, other: str) -> None:
    table = f"path,text,{column}\n0.png,a,train\n1.png,b,{other}\n"
    files = {**pictures("0.png", "1.png"), "a.csv": table}
    with pytest.raises(UserError, match=r"split='': expected NAME or NAME\+NAME of the splits"):
        listed(tmp_path, files)
    assert [item.text for item in listed(tmp_path, files, split="train").items] == ["a"]


def test_forms_of_whole_datasets_that_are_not_read_are_named(tmp_path: Path) -> None:
    for name, way in (
        ("a.tfrecord", "WebDataset tars"),
        ("data.mdb", "WebDataset"),
        ("a.npz", "as PNG files"),
    ):
        with pytest.raises(UserError, match=f"found 1 .*; write .*{way}"):
            listed(tmp_path / name, {name: b"x"})


@pytest.mark.parametrize(
    ("cell", "captions"),
    [
        ("['a cat', \"a dog's toy\"]", ("a cat", "a dog's toy")),  # Panda-70M, and lists by pandas
        ('["a \\"big\\" cat", "caf\\u00e9"]', ('a "big" cat', "café")),
        ("['a cat'\n 'a dog']", ("a cat", "a dog")),  # arrays of NumPy
        ("['a cat']", ("a cat",)),
        ("[a] cat", ("[a] cat",)),
        ("['a', 3]", ("['a', 3]",)),
    ],
)
def test_lists_of_captions_within_a_text(tmp_path: Path, cell: str, captions: tuple[str, ...]) -> None:
    row = {"path": "0.png", "caption": cell}
    (item,) = listed(tmp_path, {**pictures("0.png"), "a.jsonl": lines(row)}).items
    assert item.text == captions[0]
    assert tuple(item.more.get("texts", captions)) == captions


def test_names_beside_a_picture_may_differ_in_case(tmp_path: Path) -> None:
    files = {**pictures("IMG_1.PNG", "A.png", "a.png"), "img_1.txt": "one", "a.txt": "two", "A.txt": "three"}
    listing = listed(tmp_path, files)
    assert {i.name: i.text for i in listing.items} == {"IMG_1.PNG": "one", "a.png": "two", "A.png": "three"}
    assert "1 x file beside a picture, whose name differs from the picture's in case" in listing.said


def test_boxes_of_pascal_voc_and_splits_of_hive(tmp_path: Path) -> None:
    box = "<annotation><filename>0.png</filename><object><name>dog</name></object></annotation>"
    assert len(listed(tmp_path / "a", {**pictures("0.png"), "Annotations/0.xml": box}).items) == 1
    with pytest.raises(UserError, match=r"splits of the source: test \(1 file\), train"):
        listed(tmp_path / "b", pictures("split=train/0.png", "split=test/1.png"))


def test_one_of_several_pictures_of_a_tar_sample_can_be_chosen(tmp_path: Path) -> None:
    members = {"0.image.png": PNG, "0.mask.png": PNG, "0.txt": "a", "1.ppm": b"P6", "1.txt": "b"}
    place(tmp_path, {"a.tar": tar(members)})
    both, none = list_source(tmp_path).items
    assert both.refused
    assert none.refused
    assert both.refused[1].endswith("expected 1; columns.path=image.png takes the first")
    assert none.refused[1] == "has 0 images or videos, expected 1; its members: ppm, txt"
    listing = list_source(tmp_path, SourceRules(columns=ColumnsConfig(path="image.png")))
    assert next((i.name, i.text, i.refused) for i in listing.items) == ("a.tar/0.image.png", "a", None)
    assert any("1 .mask.png" in said for said in listing.said)
