"""Datasets behind a URL: the same samples as of a folder. Run: pytest tests/data/dataset/test_remote.py"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch

from core.distributed.ranks import World
from core.errors import UserError, WorkError
from data.dataset.index import Dataset
from data.dataset.manifest import DatasetManifest
from data.dataset.remote.remote_folder import RemoteFolder, url_of
from data.dataset.summary import summarise
from data.loading.loader import LatentLoader
from data.order.steps import LoaderConfig
from launch import cli
from tests.data.caches import IMAGE, make_cache
from tests.data.conftest import copies


def test_the_same_samples_as_of_the_folder(raw_folder: Path, url: str, home: Path) -> None:
    here, there = Dataset(raw_folder), Dataset(url)
    assert there.manifest == here.manifest
    assert np.array_equal(there.index, here.index)
    assert np.array_equal(there.media, here.media)
    assert not list(home.rglob("*.tar"))
    assert copies(home) == []  # shards come when they are read
    rows = np.random.default_rng(0).permutation(len(here)).tolist()
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(there.read, rows)) == [here.read(row) for row in rows]
    assert copies(home) == sorted({shard.sha256 for shard in here.manifest.shards})


def test_lists_of_what_was_set_aside_come_along(url: str) -> None:
    line = '{"id": "x.jpg", "stage": "decode", "error": "empty file"}\n'
    fsspec.filesystem("memory").pipe("/bucket/data/quarantine.jsonl", line.encode())
    assert summarise(Dataset(url))["quarantine"]["entries"] == 1


def test_inspect_of_a_url(url: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.main(["inspect", url, f"sheet={tmp_path / 'x.png'}"]) == 0
    assert (tmp_path / "x.png").exists()
    assert cli.main(["inspect", url, "action=verify"]) == 0
    fsspec.filesystem("memory").rm("/bucket/data/data-000002.tar")
    assert cli.main(["inspect", url, "action=verify"]) == 1
    assert "data-000002.tar is missing" in capsys.readouterr().out
    assert cli.main(["inspect", url, "action=reindex"]) == 2
    assert "expected a local folder as source" in capsys.readouterr().err


def test_a_path_object_is_as_good_as_the_text(url: str, raw_folder: Path) -> None:
    """`Path("memory://bucket")` has one slash only."""
    assert len(Dataset(Path(url))) == len(Dataset(raw_folder))


def test_a_copy_is_used_when_the_remote_is_gone(url: str) -> None:
    samples = [Dataset(url).read(row) for row in range(12)]
    memory = fsspec.filesystem("memory")
    for name in [name for name in memory.store if name.endswith(".tar")]:
        memory.store[name].seek(0)
        memory.pipe(name, b"replaced")
    assert [Dataset(url).read(row) for row in range(12)] == samples


def test_missing_shard_and_missing_manifest(url: str) -> None:
    memory = fsspec.filesystem("memory")
    memory.rm("/bucket/data/data-000001.tar")
    with pytest.raises(WorkError, match=r"memory://bucket/data/data-000001.tar: missing \(1 shard in all"):
        Dataset(url)
    with pytest.raises(UserError, match=r"source=memory://bucket/nowhere: expected a finished dataset"):
        Dataset("memory://bucket/nowhere")


def test_damage_is_found_before_anything_is_used(url: str, home: Path) -> None:
    memory = fsspec.filesystem("memory")
    data = bytearray(memory.cat_file("/bucket/data/data-000000.tar"))
    data[700] ^= 1
    memory.pipe("/bucket/data/data-000000.tar", bytes(data))
    dataset = Dataset(url)
    with pytest.raises(WorkError, match=r"memory://bucket/data/data-000000.tar: has another SHA-256"):
        dataset.read(0)
    assert copies(home) == []
    assert [finding.name for finding in dataset.audit()] == ["data-000000.tar"]
    with pytest.raises(WorkError, match="1 file not as written"):
        dataset.verify()
    memory.pipe("/bucket/data/index.npy", b"x")
    shutil.rmtree(home)
    with pytest.raises(WorkError, match=r"data/index.npy: has another SHA-256"):
        Dataset(url)


def test_a_copy_that_this_disk_lost_a_part_of_is_fetched_again(
    url: str, home: Path, raw_folder: Path
) -> None:
    Dataset(url).read(0)
    os.truncate(home / "shards" / copies(home)[0], 100)
    assert Dataset(url).read(0) == Dataset(raw_folder).read(0)


@pytest.mark.parametrize(
    "source",
    [
        "pipe:cat /etc/passwd",
        "pipe://x",
        "http://example.org/x",
        "ssh://host/x",
        "filecache::s3://bucket/x",
        "s3://a::memory://b",
        "s3:relative",
        "zip://a.zip",
    ],
)
def test_other_schemes_are_refused(source: str, tmp_path: Path) -> None:
    for given in (source, Path(source)):
        with pytest.raises(UserError, match="expected a folder, or a URL that begins with one of s3://"):
            Dataset(given)


def test_what_is_a_url(tmp_path: Path) -> None:
    assert url_of("s3://bucket/a/") == url_of(Path("s3://bucket/a")) == "s3://bucket/a"
    assert url_of(f"file://{tmp_path}") == url_of(Path(f"file:{tmp_path}")) == f"file://{tmp_path}"
    (tmp_path / "odd:name").mkdir()
    assert url_of(tmp_path / "odd:name") is None
    assert url_of("runs/raw") is None


def test_a_missing_driver_is_named(monkeypatch: pytest.MonkeyPatch, home: Path) -> None:
    def refuse(url: str) -> None:
        raise ImportError("Install s3fs to access S3")

    monkeypatch.setattr(fsspec.core, "url_to_fs", refuse)
    with pytest.raises(UserError, match=r"s3://b/x: Install s3fs to access S3 \(pip install"):
        RemoteFolder("s3://b/x")


SMALL = 40000  # bytes; less than the shards of the raw dataset take together


def read_many(url: str, home: str, results: multiprocessing.Queue[dict[int, str]]) -> None:
    os.environ["LONGTAKE_CACHE"], os.environ["LONGTAKE_CACHE_BYTES"] = home, str(SMALL)
    dataset = Dataset(url)
    rows = np.random.default_rng(os.getpid()).integers(0, len(dataset), 60).tolist()
    dataset_again = [Dataset(url) for _ in range(5)]  # with no shard open yet
    results.put({row: digest_of(dataset_again[row % 5], row) for row in rows})


def digest_of(dataset: Dataset, row: int) -> str:
    return hashlib.sha256(b"".join(dataset.read(row).values())).hexdigest()


@pytest.mark.multiprocess
def test_processes_share_a_cache_that_is_too_small(raw_folder: Path, home: Path) -> None:
    """Each fetches while others make room; every read is right, and what stays is within the bound."""
    dataset = Dataset(raw_folder)
    assert dataset.manifest.bytes > SMALL
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[dict[int, str]] = context.Queue()
    arguments = (f"file://{raw_folder}", str(home), results)
    workers = [context.Process(target=read_many, args=arguments) for _ in range(3)]
    for worker in workers:
        worker.start()
    seen = [results.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join()
    assert all(digest == digest_of(dataset, row) for digests in seen for row, digest in digests.items())
    assert sum((home / "shards" / name).stat().st_size for name in copies(home)) <= SMALL


def test_manifest_is_read_anew(url: str, raw_folder: Path, home: Path) -> None:
    """Another dataset at the same URL is another dataset."""
    before = Dataset(url)
    memory = fsspec.filesystem("memory")
    other = json.loads(memory.cat_file("/bucket/data/dataset.json")) | {"fingerprint": "f" * 64}
    del other["sha256"]  # as of a version that wrote no seal
    memory.pipe("/bucket/data/dataset.json", json.dumps(other).encode())
    assert Dataset(url).manifest.fingerprint == "f" * 64
    assert DatasetManifest.read(before.folder).fingerprint == before.manifest.fingerprint


def test_a_latent_cache_behind_a_url_trains_as_one_in_a_folder(tmp_path: Path, home: Path) -> None:
    folder = make_cache(tmp_path / "latents", [[IMAGE] * 9, [IMAGE] * 8, [IMAGE] * 8]).folder
    config, world = LoaderConfig(group_size=8), World(0, 1, 0, torch.device("cpu"))
    here, there = (LatentLoader([Dataset(d)], config, world, seed=0) for d in (folder, f"file://{folder}"))
    assert copies(home) == []
    for step in range(4):
        for a, b in zip(here.load(step), there.load(step), strict=True):
            assert torch.equal(a.x, b.x)
            assert torch.equal(a.id, b.id)
    assert len(copies(home)) == 3
