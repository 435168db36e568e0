"""Datasets behind a URL: the same samples as of a folder, copies by content, bounded, shared, checked."""

import hashlib
import multiprocessing
import os
import shutil
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import fsspec
import numpy as np
import pytest
import torch

from core.distributed import World
from core.errors import UserError, WorkError
from data import remote
from data.index import Dataset
from data.loader import LatentLoader
from data.remote import RemoteFolder, ShardCache, url_of
from data.retry import Retry
from data.schema import DatasetManifest
from data.steps import LoaderConfig
from data.summary import summarise
from launch import cli
from tests.data.caches import IMAGE, make_cache
from tests.data.raw import make_raw


class ClientError(Exception):
    """As of aiohttp: no OSError."""


class NoCredentialsError(Exception):
    """As of botocore."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_raw(tmp_path_factory.mktemp("raw"), images=10, clips=2).folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LONGTAKE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def url(made: Path, home: Path) -> str:
    """The dataset in fsspec's file system in memory."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    for path in made.iterdir():
        memory.pipe(f"/bucket/data/{path.name}", path.read_bytes())
    return "memory://bucket/data"


def copies(home: Path) -> list[str]:
    return sorted(path.name for path in home.glob("shards/*") if len(path.name) == 64)


def test_the_same_samples_as_of_the_folder(made: Path, url: str, home: Path) -> None:
    here, there = Dataset(made), Dataset(url)
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


def test_a_path_object_is_as_good_as_the_text(url: str, made: Path) -> None:
    """`Path("memory://bucket")` has one slash only."""
    assert len(Dataset(Path(url))) == len(Dataset(made))


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
    with pytest.raises(WorkError, match="1 files are not as they were written"):
        dataset.verify()
    memory.pipe("/bucket/data/index.npy", b"x")
    shutil.rmtree(home)
    with pytest.raises(WorkError, match=r"data/index.npy: has another SHA-256"):
        Dataset(url)


def test_a_copy_that_this_disk_lost_a_part_of_is_fetched_again(url: str, home: Path, made: Path) -> None:
    Dataset(url).read(0)
    os.truncate(home / "shards" / copies(home)[0], 100)
    assert Dataset(url).read(0) == Dataset(made).read(0)


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


class Flaky:
    """A file system of which every third call fails, in the middle of reading too."""

    def __init__(self, system: Any, error: Exception) -> None:
        self._system, self._error, self.calls = system, error, 0

    def ls(self, path: str, detail: bool) -> Any:
        self.fail()
        return self._system.ls(path, detail=detail)

    def open(self, path: str, mode: str) -> IO[bytes]:
        self.fail()
        return FlakyFile(self, self._system.open(path, mode))  # type: ignore[return-value]

    def fail(self) -> None:
        self.calls += 1
        if self.calls % 3 == 1:
            raise self._error


class FlakyFile:
    def __init__(self, owner: Flaky, file: IO[bytes]) -> None:
        self._owner, self._file = owner, file
        self.seek, self.close = file.seek, file.close

    def read(self, size: int) -> bytes:
        self._owner.fail()
        return self._file.read(1000)


@pytest.mark.parametrize("error", [OSError("reset"), TimeoutError(), ClientError("payload")], ids=repr)
def test_storage_that_fails_now_and_then_gives_the_same_batches(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """They come in the same order; what fails goes on where it stopped, after waits that nobody sits out."""
    folder = make_cache(tmp_path / "latents", [[IMAGE] * 9, [IMAGE] * 8, [IMAGE] * 8]).folder
    systems, waits, make = [], [], remote._file_system

    def flaky(url: str) -> tuple[Any, str]:
        system, path = make(url)
        systems.append(Flaky(system, error))
        return systems[-1], path

    monkeypatch.setattr(remote, "_file_system", flaky)
    monkeypatch.setattr(remote, "RETRY", Retry(sleep=waits.append))
    monkeypatch.setitem(sys.modules, "aiohttp", SimpleNamespace(ClientError=ClientError))
    config, world = LoaderConfig(group_size=8), World(0, 1, 0, torch.device("cpu"))
    here, there = (LatentLoader(Dataset(d), config, world, seed=0) for d in (folder, f"file://{folder}"))
    for step in range(4):
        for a, b in zip(here.load(step), there.load(step), strict=True):
            assert torch.equal(a.id, b.id)
            assert torch.equal(a.x, b.x)
    assert len(waits) == (systems[0].calls + 2) // 3 > 10
    assert len(copies(home)) == 3


def test_storage_that_is_down_ends_the_work_after_growing_waits(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waits: list[float] = []
    dataset = Dataset(url)
    monkeypatch.setattr(remote, "RETRY", Retry(attempts=5, sleep=waits.append))

    def down(path: str, mode: str) -> IO[bytes]:
        raise ConnectionResetError("reset by peer")

    monkeypatch.setattr(dataset._remote._system, "open", down)  # type: ignore[union-attr]
    shard = "data-000000.tar"
    with pytest.raises(WorkError, match=rf"{shard}: cannot be read, tried 5 times: .*reset by peer"):
        dataset.read(0)
    assert waits == [remote.RETRY.wait_s(f"{url}/{shard}", failed) for failed in (1, 2, 3, 4)]
    assert all(2**n / 2 < wait <= 2**n for n, wait in enumerate(waits))
    assert capsys.readouterr().err.count("once more in") == 4
    with pytest.raises(WorkError, match="cannot be read"):
        list(dataset.audit())  # not called missing


@pytest.mark.parametrize("error", [FileNotFoundError("x"), PermissionError("x"), NoCredentialsError("x")])
def test_what_does_not_pass_by_waiting_is_not_tried_again(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[float] = []
    drivers = SimpleNamespace(BotoCoreError=NoCredentialsError)
    monkeypatch.setitem(sys.modules, "botocore.exceptions", drivers)

    def fails() -> None:
        calls.append(1)
        raise error

    with pytest.raises(type(error)):
        Retry(sleep=calls.append).call("x", fails)
    assert calls == [1]


def test_waits_differ_between_ranks_and_files(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = set()
    for rank in range(8):
        monkeypatch.setenv("RANK", str(rank))
        waits |= {Retry().wait_s(name, 1) for name in ("a", "b")}
    assert len(waits) > 12


def test_a_copy_hurt_on_the_way_is_fetched_once_more(tmp_path: Path) -> None:
    cache, calls = ShardCache(tmp_path / "shards", 10000), []
    digest, data = blob(1)

    def hurt_once(file: IO[bytes]) -> None:
        calls.append(1)
        file.write(data if len(calls) == 2 else data[:-1] + b"?")

    with cache.open(digest, len(data), "x", hurt_once) as file:
        assert file.read() == data

    def always_hurt(file: IO[bytes]) -> None:
        calls.append(1)
        file.write(b"other")

    with pytest.raises(WorkError, match="has another SHA-256"):
        cache.open(blob(2)[0], len(data), "x", always_hurt)
    assert len(calls) == 4


def blob(number: int, size: int = 1000) -> tuple[str, bytes]:
    data = bytes([number]) * size
    return hashlib.sha256(data).hexdigest(), data


def fetch(cache: ShardCache, number: int) -> bytes:
    digest, data = blob(number)
    with cache.open(digest, len(data), "x", lambda file: file.write(data)) as file:  # type: ignore[arg-type,return-value]
        return file.read()


def test_the_longest_unused_make_room(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "shards", 3000)
    for number, when in ((1, 100), (2, 200), (3, 300)):
        fetch(cache, number)
        os.utime(cache.folder / blob(number)[0], (when, when))
    fetch(cache, 1)  # used again: now 2 is the oldest
    fetch(cache, 4)
    assert copies(tmp_path) == sorted(blob(number)[0] for number in (1, 3, 4))
    with pytest.raises(UserError, match="LONGTAKE_CACHE_BYTES=3000: expected at least 4000"):
        cache.open(blob(9, 4000)[0], 4000, "x", lambda file: None)


def test_an_open_copy_stays_readable_when_it_makes_room(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "shards", 1000)
    digest, data = blob(1)
    file = cache.open(digest, 1000, "x", lambda out: out.write(data))  # type: ignore[arg-type,return-value]
    fetch(cache, 2)
    assert copies(tmp_path) == [blob(2)[0]]
    assert file.read() == data


def test_only_one_of_many_downloads(tmp_path: Path) -> None:
    cache, calls = ShardCache(tmp_path / "shards", 10000), []
    digest, data = blob(1)

    def slow(file: IO[bytes]) -> None:
        calls.append(1)
        time.sleep(0.1)
        file.write(data)

    with ThreadPoolExecutor(4) as pool:
        files = list(pool.map(lambda _: cache.open(digest, len(data), "x", slow), range(8)))
    assert {file.read() for file in files} == {data}
    assert len(calls) == 1


def test_a_failed_download_leaves_nothing(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "shards", 10000)
    digest, data = blob(1)

    def full(file: IO[bytes]) -> None:
        file.write(data[:10])
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        cache.open(digest, len(data), "x", full)
    assert [path.name for path in cache.folder.iterdir() if not path.name.startswith("lock-")] == []
    assert fetch(cache, 1) == data


def test_debris_of_the_killed_goes_and_a_download_under_way_stays(tmp_path: Path) -> None:
    cache = ShardCache(tmp_path / "shards", 10000)
    fetch(cache, 1)
    debris = cache.folder / f".tmp-{blob(2)[0]}"
    debris.write_bytes(b"half")
    under_way, go_on = threading.Event(), threading.Event()
    digest, data = blob(3)

    def slow(file: IO[bytes]) -> None:
        file.write(data)
        under_way.set()
        go_on.wait(30)

    thread = threading.Thread(target=cache.open, args=(digest, len(data), "x", slow))
    thread.start()
    assert under_way.wait(30)
    fetch(cache, 4)
    names = {path.name for path in cache.folder.iterdir()}
    go_on.set()
    thread.join()
    assert f".tmp-{digest}" in names
    assert debris.name not in names


SMALL = 40000  # bytes; less than the shards of `made` take together


def read_many(url: str, home: str, results: "multiprocessing.Queue[dict[int, str]]") -> None:
    os.environ["LONGTAKE_CACHE"], os.environ["LONGTAKE_CACHE_BYTES"] = home, str(SMALL)
    dataset = Dataset(url)
    rows = np.random.default_rng(os.getpid()).integers(0, len(dataset), 60).tolist()
    dataset_again = [Dataset(url) for _ in range(5)]  # with no shard open yet
    results.put({row: digest_of(dataset_again[row % 5], row) for row in rows})


def digest_of(dataset: Dataset, row: int) -> str:
    return hashlib.sha256(b"".join(dataset.read(row).values())).hexdigest()


@pytest.mark.multiprocess
def test_processes_share_a_cache_that_is_too_small(made: Path, home: Path) -> None:
    """Each fetches while others make room; every read is right, and what stays is within the bound."""
    dataset = Dataset(made)
    assert dataset.manifest.bytes > SMALL
    context = multiprocessing.get_context("spawn")
    results: multiprocessing.Queue[dict[int, str]] = context.Queue()
    arguments = (f"file://{made}", str(home), results)
    workers = [context.Process(target=read_many, args=arguments) for _ in range(3)]
    for worker in workers:
        worker.start()
    seen = [results.get(timeout=120) for _ in workers]
    for worker in workers:
        worker.join()
    assert all(digest == digest_of(dataset, row) for digests in seen for row, digest in digests.items())
    assert sum((home / "shards" / name).stat().st_size for name in copies(home)) <= SMALL


def test_bad_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGTAKE_CACHE_BYTES", "64G")
    with pytest.raises(UserError, match="LONGTAKE_CACHE_BYTES=64G: expected a number of bytes"):
        ShardCache.from_environment()


def test_manifest_is_read_anew(url: str, made: Path, home: Path) -> None:
    """Another dataset at the same URL is another dataset."""
    before = Dataset(url)
    memory = fsspec.filesystem("memory")
    text = memory.cat_file("/bucket/data/dataset.json").replace(
        before.manifest.fingerprint.encode(), b"f" * 64
    )
    memory.pipe("/bucket/data/dataset.json", text)
    assert Dataset(url).manifest.fingerprint == "f" * 64
    assert DatasetManifest.read(before.folder).fingerprint == before.manifest.fingerprint


def test_a_latent_cache_behind_a_url_trains_as_one_in_a_folder(tmp_path: Path, home: Path) -> None:
    folder = make_cache(tmp_path / "latents", [[IMAGE] * 9, [IMAGE] * 8, [IMAGE] * 8]).folder
    config, world = LoaderConfig(group_size=8), World(0, 1, 0, torch.device("cpu"))
    here, there = (LatentLoader(Dataset(d), config, world, seed=0) for d in (folder, f"file://{folder}"))
    assert copies(home) == []
    for step in range(4):
        for a, b in zip(here.load(step), there.load(step), strict=True):
            assert torch.equal(a.x, b.x)
            assert torch.equal(a.id, b.id)
    assert len(copies(home)) == 3
