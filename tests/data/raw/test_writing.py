"""Raw shards: format, readability by others, receipts."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import webdataset

from core.errors import UserError, WorkError
from data.dataset.index import Dataset
from data.dataset.manifest import DatasetManifest
from data.dataset.quarantine import Quarantine
from data.media.formats import DEFAULT_LIMITS, MediaLimits
from data.raw.ingest import list_source
from data.raw.item import Item
from data.raw.unfinished import begin
from data.raw.writing import Check, ShardTask, add_sample, assemble, cut, write_shard
from tests.data.samples import clip_bytes, huge_png, image_bytes, image_folder, picture


def mixed_source(root: Path) -> Path:
    """Make a source of two classes of images, one clip, a caption, and three files that cannot be used."""
    source = image_folder(root, each=3)
    (source / "cat/0.txt").write_text("eine Katze, größer", encoding="utf-8")
    (source / "dog/clip.mp4").write_bytes(clip_bytes(root))
    (source / "cat/cut.jpg").write_bytes(image_bytes(picture(64, 64), "JPEG")[:500])
    (source / "dog/huge.png").write_bytes(huge_png())
    (source / "dog/words.png").write_bytes(b"hello")
    return source


def tasks_of(folder: Path, source: Path, samples: int = 4, check: Check = "decode") -> list[ShardTask]:
    items = list_source(source).items
    begin(folder, items)
    return [
        ShardTask(
            folder=folder,
            number=number,
            name=f"t-{number:06d}.tar",
            first=start,
            items=items[start:stop],
            limits=DEFAULT_LIMITS,
            check=check,
        )
        for number, (start, stop) in enumerate(cut(items, samples, 2**30))
    ]


def pack(folder: Path, source: Path, samples: int = 4, budget: float = 10) -> DatasetManifest:
    tasks = tasks_of(folder, source, samples)
    quarantine = Quarantine(folder / "quarantine.jsonl", total=10, budget=budget)
    for task in tasks:
        write_shard(task, quarantine)
    return assemble(folder, tasks, list_source(source).classes, quarantine)


@pytest.fixture(scope="module")
def packed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("packed")
    pack(root / "out", mixed_source(root / "in"))
    return root


def test_shards_are_cut_by_samples_and_bytes() -> None:
    items = [Item(str(k), Path(), 0, size) for k, size in enumerate([5, 5, 1, 20, 1, 1, 1, 1])]
    assert list(cut(items, 3, 10)) == [(0, 2), (2, 3), (3, 4), (4, 7), (7, 8)]
    assert list(cut([], 3, 10)) == []


def test_samples_are_written_as_webdataset_writes_them() -> None:
    samples = {
        "000000000": {"png": b"p" * 700, "json": b"{}"},
        "a/" + 120 * "b": {"mp4": b"m" * 512, "json": b""},
    }
    ours, theirs = io.BytesIO(), io.BytesIO()
    with tarfile.open(fileobj=ours, mode="w|") as tar:
        for key, members in samples.items():
            add_sample(tar, key, members)
    asked = {"encoder": False, "mtime": 0, "user": "", "group": "", "mode": 0o644, "compress": False}
    with webdataset.TarWriter(theirs, **asked) as writer:
        for key, members in samples.items():
            writer.write({"__key__": key, **members})
    assert ours.getvalue() == theirs.getvalue()


def test_stock_webdataset_reads_the_shards(packed: Path) -> None:
    urls = [str(path) for path in sorted((packed / "out").glob("*.tar"))]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"{k:09d}" for k in (0, 1, 2, 4, 5, 6, 7)]
    told = json.loads(samples[0]["json"])
    assert told == {
        "label": 0,
        "class": "cat",
        "text": "eine Katze, größer",
        "width": 16,
        "height": 12,
        "frames": 1,
        "fps": 0.0,
        "source": "cat/0.png",
    }
    assert samples[0]["png"] == (packed / "in/cat/0.png").read_bytes()
    clip = json.loads(samples[-1]["json"])
    assert (clip["frames"], clip["fps"], clip["source"]) == (9, 8.0, "dog/clip.mp4")
    assert samples[-1]["mp4"] == (packed / "in/dog/clip.mp4").read_bytes()


def test_plain_tarfile_reads_the_shards_and_finds_no_clock_or_user(packed: Path) -> None:
    with tarfile.open(packed / "out/t-000000.tar") as tar:
        infos = tar.getmembers()
    assert [info.name for info in infos] == [f"{k:09d}.{s}" for k in range(3) for s in ("json", "png")]
    assert {(i.mtime, i.uid, i.gid, i.uname, i.gname, i.mode) for i in infos} == {(0, 0, 0, "", "", 0o644)}
    assert not any(info.pax_headers for info in infos)


def test_index_points_at_the_adjacent_members(packed: Path) -> None:
    dataset = Dataset(packed / "out")
    assert len(dataset) == 7
    for row, entry in enumerate(dataset.index):
        data = dataset.shard_path(entry["shard"]).read_bytes()[entry["offset"] :][: entry["size"]]
        with tarfile.open(fileobj=io.BytesIO(data)) as tar:
            names = tar.getnames()
        assert len(names) == 2
        assert {name.partition(".")[2] for name in names} == dataset.read(row).keys()
    assert dataset.index["id"].tolist() == list(range(7))
    assert dataset.index["label"].tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert dataset.index["bucket"].tolist() == [0] * 6 + [1]
    assert dataset.media[6].item() == (48, 32, 9, 8.0, 8, 1, 9, 8, 0)
    assert dataset.media[0].item() == (16, 12, 1, 0.0, 0, 1, 0, 1, 0)


def test_manifest_and_quarantine(packed: Path) -> None:
    manifest = DatasetManifest.read(packed / "out")
    assert manifest.classes == ("cat", "dog")
    assert manifest.buckets == ("image", "video")
    assert [(s.name, s.samples) for s in manifest.shards] == [
        ("t-000000.tar", 3),
        ("t-000001.tar", 4),
    ]  # the third held nothing usable
    assert not (packed / "out/t-000002.tar").exists()
    lines = [json.loads(line) for line in (packed / "out/quarantine.jsonl").read_text().splitlines()]
    assert [(line["id"], line["stage"]) for line in lines] == [
        ("cat/cut.jpg", "decode"),
        ("dog/huge.png", "decode"),
        ("dog/words.png", "decode"),
    ]
    assert "claims too many pixels" in lines[1]["error"]
    assert "not a JPEG" in lines[2]["error"]


def test_nothing_written_tells_time_host_or_path(packed: Path) -> None:
    for path in (packed / "out").iterdir():
        assert str(packed).encode() not in path.read_bytes(), path.name
    assert not list((packed / "out").glob(".*"))


def test_equal_inputs_at_another_place_give_equal_bytes(packed: Path, tmp_path: Path) -> None:
    pack(tmp_path / "other", mixed_source(tmp_path / "elsewhere"))
    assert contents(tmp_path / "other") == contents(packed / "out")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_budget_stops_the_job_and_keeps_the_list(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="2 of 10 samples were set aside, more than the budget of 1"):
        pack(tmp_path / "out", mixed_source(tmp_path / "in"), budget=1)
    assert len((tmp_path / "out/quarantine.jsonl").read_text().splitlines()) == 2
    assert not (tmp_path / "out/dataset.json").exists()
    assert not list((tmp_path / "out").glob(".tmp-*"))


def test_a_source_of_which_nothing_is_usable(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.png").write_bytes(b"hello")
    with pytest.raises(WorkError, match=r"none of 1 sample could be used; the first: a.png: not a JPEG"):
        pack(tmp_path / "out", tmp_path / "in")
    assert not (tmp_path / "out/dataset.json").exists()


def test_header_check_is_quick_and_says_so_by_passing_a_cut_file(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    data = image_bytes(np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8), "JPEG")
    (tmp_path / "in/a.jpg").write_bytes(data[: len(data) * 4 // 5])
    quarantine = Quarantine(tmp_path / "quarantine.jsonl", total=1, budget=1)
    for check, aside in (("header", 0), ("decode", 1)):
        for task in tasks_of(tmp_path / check, tmp_path / "in", check=check):
            write_shard(task, quarantine)
        assert len(quarantine) == aside


def test_limits_are_applied(tmp_path: Path) -> None:
    source = image_folder(tmp_path / "in", each=1)
    quarantine = Quarantine(tmp_path / "quarantine.jsonl", total=2, budget=2)
    (task, *_) = tasks_of(tmp_path / "out", source)
    object.__setattr__(task, "limits", MediaLimits(pixels=100))
    write_shard(task, quarantine)
    assert {entry.error for entry in quarantine.entries} == {"claims 16x12 pixels, the limit is 100 in all"}


def test_continuing_with_a_changed_source_is_refused(tmp_path: Path) -> None:
    source = image_folder(tmp_path / "in")
    tasks_of(tmp_path / "out", source)
    (source / "cat/new.png").write_bytes(image_bytes(picture()))
    with pytest.raises(UserError, match=r"its source changed since .* overwrite=true would remove \d+ file"):
        tasks_of(tmp_path / "out", source)
