"""Datasets byte for byte as trainers and their scripts write or document them; each test names the file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.errors import UserError
from data.raw.annotations.roles import ColumnsConfig
from data.raw.ingest import list_source
from data.raw.rules import SourceRules
from tests.data.raw.sources import PNG, lines, listed, pictures, place
from tests.data.raw.test_row_annotation import parquet

CAPTIONS = {"a": {"caption": "red cat"}, "b": {"caption": "blue dog"}}
LATENTS = {
    name: {**fields, "tags": "tags of it", "train_resolution": [512, 512]}
    for name, fields in CAPTIONS.items()
}


def test_kohyas_metadata_of_each_step_may_lie_side_by_side(tmp_path: Path) -> None:
    """sd-scripts: merge_captions_to_metadata.py, then prepare_buckets_latents.py, into a file each."""
    metadata = {"meta_cap.json": json.dumps(CAPTIONS, indent=2), "meta_lat.json": json.dumps(LATENTS)}
    listing = listed(tmp_path, {**pictures("a.png", "b.png"), "a.npz": b"", **metadata})
    assert [(item.name, item.text) for item in listing.items] == [("a.png", "red cat"), ("b.png", "blue dog")]
    assert any("2 x row that says of a file no more than another table" in said for said in listing.said)
    given = list_source(tmp_path / "meta_lat.json")
    assert [(item.name, item.text) for item in given.items] == [("a.png", "red cat"), ("b.png", "blue dog")]


def test_tables_that_differ_on_a_file_are_refused_and_say_in_what(tmp_path: Path) -> None:
    other = json.dumps({**CAPTIONS, "b": {"caption": "a wolf"}})
    files = {**pictures("a.png", "b.png"), "meta_cap.json": json.dumps(CAPTIONS), "meta_new.json": other}
    with pytest.raises(
        UserError, match=r"row 2: b.png is named by another table too .*another caption; give"
    ):
        listed(tmp_path / "a", files)
    labelled = {"cap.csv": "path,text\na.png,red\n", "lab.csv": "path,label\na.png,3\n"}
    with pytest.raises(UserError, match=r"a.png is named by another table too .*another label; give"):
        listed(tmp_path / "b", {**pictures("a.png"), **labelled})


def test_a_test_table_agrees_with_no_other(tmp_path: Path) -> None:
    tables = {name: "path,text\na.png,red\n" for name in ("train.csv", "test.csv")}
    with pytest.raises(UserError, match=r"a.png is named by another table too"):
        listed(tmp_path, {**pictures("a.png"), **tables}, split="train")


def test_fastvideos_table_lies_beside_the_lists_it_was_made_from(tmp_path: Path) -> None:
    """FastVideo: scripts/dataset_preparation/prepare_json_file.py reads the lists and leaves them."""
    rows = [{"path": f"{k}.mp4", "resolution": {"width": 4}, "fps": 24.0, "cap": [f"t{k}"]} for k in (0, 1)]
    lists = {"videos.txt": "videos/0.mp4\nvideos/1.mp4\n", "prompt.txt": "t0\nt1\n"}
    made = {"videos2caption.json": json.dumps(rows, indent=2), "merge.txt": "videos,videos2caption.json\n"}
    listing = listed(tmp_path, {"videos/0.mp4": PNG, "videos/1.mp4": PNG, **lists, **made})
    assert [(i.name, i.text) for i in listing.items] == [("videos/0.mp4", "t0"), ("videos/1.mp4", "t1")]


def test_a_folder_of_frames_in_a_table_is_named_and_its_frames_are_no_samples(tmp_path: Path) -> None:
    """musubi-tuner, docs/dataset_config.md: `video_path` can be a directory containing multiple images."""
    table = lines({"video_path": "v", "caption": "red"}, {"video_path": "w", "caption": "blue"})
    listing = listed(tmp_path, {**pictures("v/0.png", "v/1.png", "w/0.png"), "m.jsonl": table})
    assert [item.text for item in listing.items] == ["red", "blue"]
    assert all(
        item.refused and "is a folder, and a sample is one file" in item.refused[1] for item in listing.items
    )
    assert any("3 in a folder that a table names" in said for said in listing.said)


def test_files_in_objects_of_a_table_are_no_samples(tmp_path: Path) -> None:
    """DiffSynth-Studio, docs/en/Model_Details/MiniMax-H3.md: `references` is a list of objects."""
    row = {"video": "a.mp4", "prompt": "red", "references": [{"type": "image", "image": "r.png"}]}
    listing = listed(tmp_path, {"a.mp4": PNG, **pictures("r.png"), "metadata.json": json.dumps([row])})
    assert [(item.name, item.text) for item in listing.items] == [("a.mp4", "red")]


def test_files_of_a_row_of_several_are_no_samples_without_it(tmp_path: Path) -> None:
    """DiffSynth-Studio's layered images: `image` is a list."""
    row = {"prompt": "poster", "image": ["0.png", "1.png"]}
    (item,) = listed(tmp_path, {**pictures("0.png", "1.png"), "metadata.json": json.dumps([row])}).items
    assert item.refused == ("list", "image holds 2 files, and a row is one sample")


def test_numbers_may_name_files(tmp_path: Path) -> None:
    """SimpleTuner, documentation/DATALOADER.md: `filename_column` is `id` in photo-concept-bucket."""
    place(tmp_path, pictures("101.png", "102.png"))
    cells = {"id": [101, 102], "cogvlm_caption": ["red", "blue"], "tags": ["r", "b"]}
    parquet(tmp_path / "photo-concept-bucket.parquet", cells)
    rules = SourceRules(columns=ColumnsConfig(path="id", text="cogvlm_caption"))
    assert [(i.name, i.text) for i in list_source(tmp_path, rules).items] == [
        ("101.png", "red"),
        ("102.png", "blue"),
    ]


def test_of_tables_of_other_splits_only_the_files_matter(tmp_path: Path) -> None:
    """Something-Something v2: test.json has no labels, which are sentences elsewhere."""
    tables = {
        "labels/train.json": json.dumps([{"id": "1", "label": "holding a potato", "template": "Holding"}]),
        "labels/test.json": json.dumps([{"id": "2"}]),
    }
    columns = ColumnsConfig(path="id", text="label")
    listing = listed(tmp_path, {"v/1.webm": PNG, "v/2.webm": PNG, **tables}, columns=columns, split="train")
    assert [(item.name, item.text) for item in listing.items] == [("v/1.webm", "holding a potato")]


@pytest.mark.parametrize(("prompts", "media"), [("prompt.txt", "videos.txt"), ("captions.txt", "image.txt")])
def test_finetrainers_lists(tmp_path: Path, prompts: str, media: str) -> None:
    """finetrainers, finetrainers/data/dataset.py: COMMON_CAPTION_FILES and so on."""
    lists = {prompts: "red\nblue\n", media: "m/0.mp4\nm/1.mp4\n"}
    listing = listed(tmp_path, {"m/0.mp4": PNG, "m/1.mp4": PNG, **lists})
    assert [(item.name, item.text) for item in listing.items] == [("m/0.mp4", "red"), ("m/1.mp4", "blue")]


def test_cogvideos_images_are_conditions_of_its_videos(tmp_path: Path) -> None:
    """CogVideo, finetune/scripts/extract_images.py writes images.txt; its trainer makes first_frames."""
    lists = {"prompts.txt": "red\nblue\n", "videos.txt": "videos/0.mp4\nvideos/1.mp4\n"}
    films = {"videos/0.mp4": PNG, "videos/1.mp4": PNG}
    frames = {**pictures("images/0.png", "images/1.png"), "images.txt": "images/0.png\nimages/1.png\n"}
    listing = listed(tmp_path / "a", {**films, **lists, **frames})
    assert [(i.name, i.text) for i in listing.items] == [("videos/0.mp4", "red"), ("videos/1.mp4", "blue")]
    assert any("2 named by column 'images.txt' alone" in said for said in listing.said)
    with pytest.raises(UserError, match=r"images.txt has 1 line, videos.txt 2; line k"):
        listed(tmp_path / "b", {**films, **lists, **frames, "images.txt": "images/0.png\n"})
    listing = listed(
        tmp_path / "c", {**films, **lists, **pictures("first_frames/0.png", "first_frames/1.png")}
    )
    assert [item.name for item in listing.items] == list(films)
    assert any("2 conditions of a picture, in first_frames/" in said for said in listing.said)


def test_ltx_writes_captions_and_paths_as_lists(tmp_path: Path) -> None:
    """LTX-Video-Trainer, scripts/caption_videos.py: OutputFormat.TXT."""
    lists = {"dataset_captions.txt": "red\nblue\n", "dataset_paths.txt": "a.mp4\nb.mp4\n"}
    listing = listed(tmp_path, {"a.mp4": PNG, "b.mp4": PNG, **lists})
    assert [(item.name, item.text) for item in listing.items] == [("a.mp4", "red"), ("b.mp4", "blue")]


@pytest.mark.parametrize("folder", ["metas", "labels"])
def test_folders_of_captions_by_trainers(tmp_path: Path, folder: str) -> None:
    """cosmos-predict2, documentations/post-training_video2world.md; CogVideo, sat/README.md."""
    captions = {f"{folder}/{k}.txt": f"text {k}\n" for k in (1, 2)}
    films = {"videos/1.mp4": PNG, "videos/2.mp4": PNG, "t5_xxl/1.pickle": b"\x80"}
    assert [item.text for item in listed(tmp_path, {**films, **captions}).items] == ["text 1", "text 2"]


def test_boxes_of_yolo_are_no_captions(tmp_path: Path) -> None:
    files = {**pictures("images/0.png"), "labels/0.txt": "0 0.5 0.5 0.1 0.1\n"}
    listing = listed(tmp_path, files, classes=False)
    assert [item.text for item in listing.items] == [""]
    assert any("labels/*.txt" in said for said in listing.said)


CONDITIONS = [
    ("mask", {"image/a.png": PNG, "image/a.txt": "red", "mask/a.png": PNG}),  # diffusion-pipe, kohya
    ("control_dir", {"image/a.png": PNG, "image/a.txt": "red", "control_dir/a_0.png": PNG}),  # musubi-tuner
    ("control_dir", {"video/a.mp4": PNG, "video/a.txt": "red", "control_dir/a/0001.png": PNG}),
    ("depth", {"videos/a.mp4": PNG, "captions/a.txt": "red", "depth/a.mp4": PNG}),
]


@pytest.mark.parametrize(("folder", "files"), CONDITIONS)
def test_conditions_of_captioned_pictures_are_no_samples(
    tmp_path: Path, folder: str, files: dict[str, bytes | str]
) -> None:
    """musubi-tuner, docs/dataset_config.md: control_directory; diffusion-pipe, examples/dataset.toml."""
    listing = listed(tmp_path, files)
    assert [item.text for item in listing.items] == ["red"]
    assert any(f"1 condition of a picture, in {folder}/" in said for said in listing.said)
    assert len(list_source(tmp_path, SourceRules(captions="none")).items) == 1


def test_folders_called_as_conditions_stay_samples_where_nothing_says_otherwise(tmp_path: Path) -> None:
    classes = listed(tmp_path / "a", pictures("control/0.png", "treated/0.png"))
    assert classes.classes == ("control", "treated")
    assert any("called as conditions of pictures are packed as samples: control;" in s for s in classes.said)
    own = {**pictures("pose/1.png", "image/0.png"), "image/0.txt": "red"}
    assert len(listed(tmp_path / "b", own).items) == 2


def test_caches_of_simpletuner_are_passed_over(tmp_path: Path) -> None:
    """SimpleTuner, documentation/DATALOADER.md: aspect_ratio_bucket_indices_*.json."""
    files = {
        **pictures("a.png"),
        "aspect_ratio_bucket_indices_id.json": '{"aspect_ratio_bucket_indices": {"1.0": ["a.png"]}}',
        "aspect_ratio_bucket_metadata_id.json": '{"a.png": {"original_size": [3, 4]}}',
    }
    listing = listed(tmp_path, files)
    assert [(item.name, item.text) for item in listing.items] == [("a.png", "")]
    assert any("2 of a trainer" in said for said in listing.said)


def test_hunyuanvideo_has_a_file_for_each_sample(tmp_path: Path) -> None:
    """HunyuanVideo-I2V, hyvideo/hyvae_extract/README.md: meta_file.list names JSON files."""
    samples = {
        f"meta/{k}.json": json.dumps(
            {"video_path": f"{k}.mp4", "raw_caption": {"long caption": f"a film {k}"}}
        )
        for k in "ab"
    }
    files = {"v/a.mp4": PNG, "v/b.mp4": PNG, **samples, "meta_file.list": "/x/meta/a.json\n/x/meta/b.json\n"}
    with pytest.raises(
        UserError, match=r"column 'raw_caption' of meta/a.json.*; columns.text=raw_caption takes it"
    ):
        listed(tmp_path, files)
    listing = list_source(tmp_path, SourceRules(columns=ColumnsConfig(text="raw_caption")))
    assert [(item.name, item.text) for item in listing.items] == [
        ("v/a.mp4", "a film a"),
        ("v/b.mp4", "a film b"),
    ]
