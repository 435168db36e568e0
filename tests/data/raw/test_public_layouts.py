"""Public datasets in the forms in which their authors give them away, a few samples of each."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.errors import UserError
from data.raw.annotations.roles import ColumnsConfig
from data.raw.ingest import list_source
from data.raw.rules import SourceRules
from tests.data.raw.sources import PNG, lines, listed, pictures, place, tar
from tests.data.raw.test_row_annotation import parquet

COCO: dict[str, list[object] | dict[str, object]] = {
    "info": {"year": 2017},
    "licenses": [{"id": 4, "name": "x"}],
    "images": [
        {"license": 4, "file_name": "000000000139.jpg", "id": 139},
        {"license": 4, "file_name": "000000000285.jpg", "id": 285},
    ],
    "annotations": [
        {"image_id": 285, "id": 3, "caption": "A bear."},
        {"image_id": 139, "id": 1, "caption": "A woman."},
        {"image_id": 139, "id": 2, "caption": "A room."},
    ],
}
OTHER = {
    "images": [{"file_name": "000000000111.jpg", "id": 111}],
    "annotations": [{"image_id": 111, "id": 9, "caption": "A test."}],
}


def test_captions_of_coco(tmp_path: Path) -> None:
    """captions_train2017.json: images and captions are two lists, joined by number."""
    files = {
        **pictures("train2017/000000000139.jpg", "train2017/000000000285.jpg", "val2017/000000000111.jpg"),
        "annotations/captions_train2017.json": json.dumps(COCO),
        "annotations/captions_val2017.json": json.dumps(OTHER),
    }
    with pytest.raises(UserError, match=r"splits of the source: train \(1 table\), val \(1 table\)"):
        listed(tmp_path, files)
    one, other = list_source(tmp_path, SourceRules(split="train")).items
    assert (one.name, one.text, one.more["texts"]) == (
        "train2017/000000000139.jpg",
        "A woman.",
        ["A woman.", "A room."],
    )
    assert (other.name, other.text) == ("train2017/000000000285.jpg", "A bear.")


def test_numbers_of_coco_that_are_none_name_no_picture(tmp_path: Path) -> None:
    damaged = {**COCO, "annotations": [{"image_id": [139], "caption": "A list."}, *COCO["annotations"]]}
    files = {**pictures("000000000139.jpg", "000000000285.jpg"), "captions.json": json.dumps(damaged)}
    assert [item.text for item in listed(tmp_path, files).items] == ["A woman.", "A bear."]


def test_boxes_of_coco_are_no_captions(tmp_path: Path) -> None:
    """instances_train2017.json: several objects a picture, which are neither its class nor its caption."""
    boxes = {
        "images": [{"file_name": "0.jpg", "id": 1}],
        "annotations": [{"image_id": 1, "category_id": 18, "bbox": [0, 0, 1, 1]}],
        "categories": [{"id": 18, "name": "dog"}],
    }
    files = {**pictures("0.jpg"), "instances_train2017.json": json.dumps(boxes)}
    with pytest.raises(UserError, match=r"the file instances_train2017.json.*captions=none packs without"):
        listed(tmp_path, files)
    assert len(list_source(tmp_path, SourceRules(captions="none", classes=False)).items) == 1


def test_splits_of_karpathy(tmp_path: Path) -> None:
    """dataset_flickr30k.json, dataset_coco.json: sentences within images, and a split of each."""
    images = [
        {
            "filepath": "val2014",
            "filename": f"{k}.jpg",
            "split": split,
            "sentences": [{"tokens": ["two"], "raw": f"Two men {k}."}, {"tokens": ["a"], "raw": "A yard."}],
        }
        for k, split in enumerate(("train", "test"))
    ]
    files = {
        **pictures("val2014/0.jpg", "val2014/1.jpg"),
        "dataset_coco.json": json.dumps({"images": images}),
    }
    (item,) = listed(tmp_path, files, split="train").items
    assert (item.name, item.more["texts"]) == ("val2014/0.jpg", ["Two men 0.", "A yard."])


def test_msr_vtt(tmp_path: Path) -> None:
    """train_val_videodatainfo.json: videos by number, sentences that name them."""
    info = {
        "info": {},
        "videos": [
            {"category": 9, "url": "u", "video_id": "video0", "split": "train", "id": 0},
            {"category": 3, "url": "u", "video_id": "video1", "split": "validate", "id": 1},
        ],
        "sentences": [
            {"caption": "a cartoon", "video_id": "video0", "sen_id": 1},
            {"caption": "a man", "video_id": "video1", "sen_id": 2},
        ],
    }
    films = {"TrainValVideo/video0.mp4": PNG, "TrainValVideo/video1.mp4": PNG}
    listing = listed(tmp_path, {**films, "train_val_videodatainfo.json": json.dumps(info)}, split="train")
    assert [(item.name, item.label, item.text) for item in listing.items] == [
        ("TrainValVideo/video0.mp4", 9, "a cartoon")
    ]


def test_captions_of_flickr8k_are_a_table_called_txt(tmp_path: Path) -> None:
    table = 'image,caption\n1.jpg,"A child , pink ."\n1.jpg,A girl .\n2.jpg,A dog .\n'
    listing = listed(tmp_path, {**pictures("Images/1.jpg", "Images/2.jpg"), "captions.txt": table})
    assert [item.text for item in listing.items] == ["A child , pink .", "A girl .", "A dog ."]
    caption = {**pictures("images/0.png"), "captions/0.txt": "image, caption\n"}
    assert [item.text for item in listed(tmp_path / "one line", caption).items] == ["image, caption"]


def test_captions_of_flickr30k_are_named_and_their_way_works(tmp_path: Path) -> None:
    """results_20130124.token numbers the captions of a picture behind a #."""
    captions = "1.jpg#0\tTwo young guys .\n1.jpg#1\tTwo men .\n"
    files = {**pictures("flickr30k-images/1.jpg"), "results.token": captions}
    with pytest.raises(UserError, match=r"the file results.token; the suffix .csv or .tsv, and a first line"):
        listed(tmp_path / "a", files)
    del files["results.token"]
    listing = listed(tmp_path / "b", {**files, "results.tsv": f"path\ttext\n{captions}"})
    assert [item.text for item in listing.items] == ["Two young guys .", "Two men ."]


def test_thousands_of_ffhq_are_no_classes(tmp_path: Path) -> None:
    listing = listed(tmp_path / "a", pictures("00000/00000.png", "00000/00999.png", "01000/01000.png"))
    assert (listing.labels, len(listing.items)) == (0, 3)
    assert "folders as FFHQ numbers them are no classes" in listing.said
    assert listed(tmp_path / "b", pictures("00000/00000.png", "01000/00001.png")).labels == 2


def test_lists_of_splits_are_said_to_be_unread(tmp_path: Path) -> None:
    """UCF-101: trainlist01.txt, testlist01.txt; Food-101: meta/train.txt, meta/test.txt."""
    lists = {
        "lists/trainlist01.txt": "Archery/a.avi 1\n",
        "lists/testlist01.txt": "Bowling/b.avi\n",
        "lists/classInd.txt": "1 Archery\n2 Bowling\n",
    }
    listing = listed(tmp_path, {"Archery/a.avi": PNG, "Bowling/b.avi": PNG, **lists})
    assert listing.classes == ("Archery", "Bowling")
    assert any(
        said.startswith("warning: lists of splits are not read") and "testlist01.txt" in said
        for said in listing.said
    )


def test_folders_of_cyclegan_are_said_to_be_splits(tmp_path: Path) -> None:
    listing = listed(tmp_path, pictures("trainA/0.png", "trainB/0.png", "testA/9.png", "testB/9.png"))
    assert any(
        "warning: classes that are called as splits are: testA, testB" in said for said in listing.said
    )


@pytest.mark.parametrize("name", ["data_batch_1", "test_batch.bin", "train-images-idx3-ubyte"])
def test_batches_of_arrays_are_named(tmp_path: Path, name: str) -> None:
    """CIFAR-10 in Python and binary form, MNIST."""
    with pytest.raises(UserError, match=r"; write pictures as PNG files of arrays"):
        listed(tmp_path, {f"cifar-10-batches-py/{name}": b"\x80\x02"})


def test_tables_of_urls_say_who_fetches_them(tmp_path: Path) -> None:
    """LAION: SAMPLE_ID, URL, TEXT."""
    parquet(tmp_path / "part.parquet", {"SAMPLE_ID": [1], "URL": ["https://x/0.jpg"], "TEXT": ["red"]})
    with pytest.raises(UserError, match=r"img2dataset or video2dataset fetch those in 'URL'"):
        list_source(tmp_path)


SPLIT = """exclude: []
split_parts:
  train:
  - shard_{0000..0001}.tar
  val:
  - shard_0002.tar
  test: []
"""


def shards(tmp_path: Path, split: str) -> Path:
    files = {f"shard_000{k}.tar": tar({f"s{k}.jpg": PNG, f"s{k}.txt": f"t{k}"}) for k in range(3)}
    indices = {f"{name}.idx": b"x" for name in files}
    return place(tmp_path, {**files, **indices, ".nv-meta/split.yaml": split})


def test_splits_of_energon(tmp_path: Path) -> None:
    """Megatron-Energon, docs/source/basic/data_prep.md: `energon prepare` writes .nv-meta/split.yaml."""
    source = shards(tmp_path, SPLIT)
    with pytest.raises(UserError, match=r"splits of the source: train \(2 tars\), val \(1 tar\)"):
        list_source(source)
    listing = list_source(source, SourceRules(split="train"))
    assert [item.text for item in listing.items] == ["t0", "t1"]
    assert any("1 of split val" in said for said in listing.said)


def test_what_energon_excludes(tmp_path: Path) -> None:
    exclude = "exclude: [shard_0001.tar, shard_0000.tar/s0]"
    listing = list_source(shards(tmp_path, SPLIT.replace("exclude: []", exclude)), SourceRules(split="train"))
    assert [item.text for item in listing.items] == ["t0"]
    assert any("1 excluded by split.yaml" in said for said in listing.said)
    assert any("1 sample that split.yaml excludes are packed all the same" in said for said in listing.said)
    elsewhere = place(tmp_path / "c", {"split.yaml": SPLIT})
    linked = shards(tmp_path / "d", SPLIT)
    (linked / ".nv-meta/split.yaml").unlink()
    (linked / ".nv-meta/split.yaml").symlink_to(elsewhere / "split.yaml")
    with pytest.raises(UserError, match=r"split.yaml: a link leads out of the source"):
        list_source(linked)
    assert len(list_source(linked, SourceRules(split="val", links="follow")).items) == 1
    with pytest.raises(UserError, match=r"split.yaml: no `split_parts` with a list of tars"):
        list_source(shards(tmp_path / "b", "split_parts: [1]\n"))


def test_a_download_of_img2dataset_that_was_ended_early(tmp_path: Path) -> None:
    """img2dataset, writer.py: FilesSampleWriter; a shard that is not finished has no statistics yet."""
    pairs = {f"{name}.txt": "c" for name in ("00000/000000", "00001/000010")}
    files = {**pictures("00000/000000.jpg", "00001/000010.jpg"), **pairs, "00000_stats.json": "{}"}
    listing = listed(tmp_path, {**files, "00001.parquet": b"PAR1"})
    assert (listing.classes, listing.texts) == ((), 2)


def test_pictures_that_are_objects_of_python_are_named_and_count_for_no_file(tmp_path: Path) -> None:
    """datasets, Dataset.to_csv: the column of pictures is written by `str`."""
    cells = "".join(f"\"{{'bytes': None, 'path': '/x/{k}.png'}}\",cap {k}\n" for k in range(2))
    listing = listed(tmp_path, {**pictures("0.png"), "x.csv": f"image,text\n{cells}"})
    assert [bool(item.refused) for item in listing.items] == [True, True, False]
    assert not any("a row before names too" in said for said in listing.said)


def test_the_column_that_names_files_is_named(tmp_path: Path) -> None:
    """WebVid: results_2M_train.csv; InternVid: YoutubeID and two times, which name no file as they stand."""
    films: dict[str, str | bytes] = {"videos/1.mp4": PNG, "videos/2.mp4": PNG}
    rows = "1,https://x/a.mp4,red man\n2,https://x/b.mp4,blue man\n"
    webvid = {**films, "results_2M_train.csv": f"videoid,contentUrl,name\n{rows}"}
    with pytest.raises(UserError, match=r"columns.path=videoid takes it"):
        listed(tmp_path / "a", webvid)
    columns = ColumnsConfig(path="videoid", text="name")
    listing = list_source(tmp_path / "a", SourceRules(columns=columns))
    assert [item.text for item in listing.items] == ["red man", "blue man"]
    internvid = {
        **films,
        "a.jsonl": lines({"YoutubeID": "x", "Start_timestamp": "00:00:01", "Caption": "red"}),
    }
    with pytest.raises(
        UserError, match=r"'Caption' of a.jsonl; a column 'path' with the files in a.jsonl takes it"
    ):
        listed(tmp_path / "b", internvid)
