"""Copies by content: bounded, shared, checked. Run: pytest tests/data/dataset/test_shard_cache.py"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import pytest

from core.errors import UserError, WorkError
from core.files import temporary_name
from data.dataset.remote.shard_cache import ShardCache
from tests.data.conftest import copies


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
    debris = temporary_name(cache.folder / blob(2)[0])
    earlier = cache.folder / f".tmp-{blob(2)[0]}"  # as an earlier version named it
    for path in (debris, earlier):
        path.write_bytes(b"half")
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
    assert [name for name in names if name.startswith(".tmp-") and name.endswith(digest)]
    assert not {debris.name, earlier.name} & names


def test_bad_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LONGTAKE_CACHE_BYTES", "64G")
    with pytest.raises(UserError, match="LONGTAKE_CACHE_BYTES=64G: expected a number of bytes"):
        ShardCache.from_environment()


def test_a_copy_is_trusted_by_its_hash_and_not_by_its_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Damaged between two jobs, at the same length; a job hashes each copy once."""
    digest, data = blob(1)
    fetch(ShardCache(tmp_path / "shards", 10000), 1)
    copy = tmp_path / "shards" / digest
    for damaged in (b"?" + data[1:], data[:-1], data + b"?", b""):
        copy.write_bytes(damaged)
        capsys.readouterr()
        assert fetch(ShardCache(tmp_path / "shards", 10000), 1) == data
        assert f"{copy} was damaged since it was copied here; x is fetched again" in capsys.readouterr().err
        assert copy.read_bytes() == data


def test_a_copy_is_hashed_once_by_a_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fetch(ShardCache(tmp_path / "shards", 10000), 1)
    hashed: list[int] = []
    real = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda file, name: hashed.append(1) or real(file, name))
    cache = ShardCache(tmp_path / "shards", 10000)
    for _ in range(3):
        assert fetch(cache, 1) == blob(1)[1]
    assert len(hashed) == 1
