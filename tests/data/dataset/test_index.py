"""Finished datasets: opening, reading, verification, a new index."""

import json
import os
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from core.errors import UserError, WorkError
from core.reading.open_files import FILES
from data.dataset.index import Dataset
from data.dataset.quarantine import Quarantine
from data.media.formats import DEFAULT_LIMITS
from data.raw.ingest import list_source
from data.raw.unfinished import begin
from data.raw.writing import ShardTask, assemble, write_shard
from data.reindexing.reindex import reindex
from tests.data.samples import clip_bytes, image_bytes, image_folder, picture, tar_bytes


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    source = image_folder(root / "in", each=4)
    (source / "dog/clip.mp4").write_bytes(clip_bytes(root))
    listing = list_source(source)
    begin(root / "out", listing.items)
    cuts = [(0, 3), (3, 6), (6, 9)]
    tasks = [
        ShardTask(
            folder=root / "out",
            number=number,
            name=f"t-{number:06d}.tar",
            first=start,
            items=listing.items[start:stop],
            limits=DEFAULT_LIMITS,
            check="decode",
        )
        for number, (start, stop) in enumerate(cuts)
    ]
    quarantine = Quarantine(root / "out/quarantine.jsonl", total=9, budget=0)
    for task in tasks:
        write_shard(task, quarantine)
    assemble(root / "out", tasks, listing.classes, quarantine)
    return root / "out"


@pytest.fixture
def dataset(made: Path, tmp_path: Path) -> Path:
    """Return a copy to damage."""
    return shutil.copytree(made, tmp_path / "data")


def test_index_is_mapped_and_rows_are_read_in_any_order_from_many_threads(
    made: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FILES, "most", lambda: 1)
    dataset = Dataset(made)
    assert np.asarray(dataset.index).base is not None  # rows of a map, not a copy
    rows = np.random.default_rng(0).integers(0, len(dataset), 300).tolist()
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(dataset.read, rows))
    plain = [dataset.read(row) for row in range(len(dataset))]
    assert all(sample == plain[row] for row, sample in zip(rows, found, strict=True))
    assert [json.loads(sample["json"])["source"] for sample in plain][-2:] == ["dog/3.png", "dog/clip.mp4"]


def test_verify_passes_whole_data_and_counts_files(made: Path) -> None:
    calls: list[int] = []
    Dataset(made).verify(lambda: calls.append(1))
    assert len(calls) == 5  # three tars, index, media


def test_missing_shard_is_found_when_opening(dataset: Path) -> None:
    (dataset / "t-000001.tar").unlink()
    with pytest.raises(WorkError, match=r"t-000001.tar: missing"):
        Dataset(dataset)


def test_truncated_shard_is_found_when_reading_and_verifying(dataset: Path) -> None:
    path = dataset / "t-000001.tar"
    os.truncate(path, 3000)
    opened = Dataset(dataset)
    opened.read(0)
    with pytest.raises(WorkError, match=r"t-000001.tar: 3000 bytes, but 10240 when it was indexed"):
        opened.read(4)
    with pytest.raises(WorkError, match=r"1 file .* t-000001.tar has another SHA-256"):
        opened.verify()


def test_index_older_than_its_tar_is_an_error(dataset: Path) -> None:
    """A tar of the same length whose samples lie elsewhere."""
    path = dataset / "t-000000.tar"
    data = path.read_bytes()
    path.write_bytes(data[1024:] + bytes(1024))
    opened = Dataset(dataset)
    with pytest.raises(WorkError, match="is no sample"):
        opened.read(0)
    with pytest.raises(WorkError, match="another SHA-256"):
        opened.verify()


def test_one_flipped_bit_is_found_by_verify(dataset: Path) -> None:
    path = dataset / "t-000002.tar"
    data = bytearray(path.read_bytes())
    data[3000] ^= 1
    path.write_bytes(data)
    with pytest.raises(WorkError, match=r"1 file not as written: t-000002.tar"):
        Dataset(dataset).verify()


def test_index_that_points_outside_is_an_error(dataset: Path) -> None:
    """The dataset is of an earlier version, without hashes of blocks, which would show the damage before."""
    record = json.loads((dataset / "dataset.json").read_text())
    del record["blocks"], record["sha256"]
    (dataset / "dataset.json").write_text(json.dumps(record))
    index = np.load(dataset / "index.npy")
    index["offset"][2] = 2**40
    np.save(dataset / "index.npy", index)
    with pytest.raises(WorkError, match="row 2 points outside of the shards"):
        Dataset(dataset).read(2)
    with pytest.raises(WorkError, match=r"index.npy points outside"):
        Dataset(dataset).verify()


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:200]),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
        lambda path: np.save(path, np.zeros(9)),
        lambda path: np.save(path, np.load(path)[:-1]),
        lambda path: np.save(path, np.array([{}], object), allow_pickle=True),
    ],
    ids=["cut", "empty", "missing", "dtype", "short", "pickle"],
)
@pytest.mark.parametrize("name", ["index.npy", "media.npy"])
def test_damaged_index_is_an_error(dataset: Path, name: str, damage: Callable[[Path], None]) -> None:
    damage(dataset / name)
    with pytest.raises(WorkError, match=name):
        _ = Dataset(dataset).media


def test_folder_that_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a finished dataset"):
        Dataset(tmp_path)


def test_new_index_of_own_tars_is_the_old_one(made: Path, dataset: Path) -> None:
    for name in ("index.npy", "media.npy", "dataset.json"):
        (dataset / name).unlink()
    reindex(dataset)
    for path in made.iterdir():
        assert (dataset / path.name).read_bytes() == path.read_bytes(), path.name


def test_index_of_foreign_tars(tmp_path: Path) -> None:
    png, jpg = image_bytes(picture()), image_bytes(picture(20, 30), "JPEG")
    members = [
        ("x/a.cls", b"2"),
        ("x/a.png", png),
        ("x/b.jpg", jpg),
        ("x/b.json", b'{"label": 0, "width": -5}'),
    ]
    (tmp_path / "foreign.tar").write_bytes(tar_bytes(members, mtime=1.5))
    manifest = reindex(tmp_path).manifest
    dataset = Dataset(tmp_path)
    assert (manifest.classes, dataset.index["label"].tolist()) == (("0", "1", "2"), [2, 0])
    assert dataset.read(1)["jpg"] == jpg
    assert dataset.media["width"].tolist() == [16, 30]
    dataset.verify()


def test_foreign_tar_with_an_unusable_sample_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tar").write_bytes(tar_bytes([("a.png", b"hello")]))
    with pytest.raises(UserError, match=r"a.tar: sample 'a': not a JPEG.*longtake shard"):
        reindex(tmp_path)
    assert not (tmp_path / "dataset.json").exists()
    with pytest.raises(UserError, match=r"expected a folder with .tar files"):
        reindex(tmp_path.parent)
