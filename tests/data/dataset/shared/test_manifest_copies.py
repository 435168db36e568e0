"""A large manifest is parsed once and mapped by others. Run: pytest tests/data/dataset/shared"""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import WorkError
from data.dataset import manifest as manifest_module
from data.dataset.manifest import DatasetManifest
from data.dataset.shared import manifest_copies
from data.dataset.shared.shard_table import CountTable, ShardRecord, ShardTable

RANKS = 4


@pytest.fixture(autouse=True)
def copies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of this user's copies, which every manifest gets."""
    monkeypatch.setattr(manifest_module, "LEAST_BYTES", 0)
    monkeypatch.setenv("LONGTAKE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache/manifests" / str(os.geteuid())


def written(folder: Path, shards: int = 5, **changed: Any) -> DatasetManifest:
    """Write the manifest of a cache of two shapes, whose shards are of different sizes."""
    folder.mkdir(exist_ok=True)
    records = [
        ShardRecord(name=f"ü{'x' * n}.tar", samples=n + 3, bytes=2**33 + n, sha256=f"{n:064x}")
        for n in range(shards)
    ]
    extra = {
        "made_from": {"encoder": "a"},
        "statistics": {"mean": [0.0, 0.5], "std": [1.0, 2.0]},
        "bucket_counts": [[n, 3] for n in range(shards)],
    }
    content: dict[str, Any] = {"shards": tuple(records), "classes": ("a", "b"), "extra": extra, **changed}
    shapes = ([1, 2, 1, 8, 8], [1, 2, 1, 8, 4])
    manifest = DatasetManifest(kind="latent", fingerprint="f", buckets=shapes, **content)
    manifest.write(folder)
    return manifest


def as_rank(folder: Path, cache: Path, together: Any, found: Any) -> None:
    """Open a dataset as a rank of a node does, at the same time as the others."""
    os.environ["LONGTAKE_CACHE"] = str(cache)
    manifest_module.LEAST_BYTES = 0
    parsed: list[Path] = []
    DatasetManifest._known = counting(DatasetManifest._known, parsed)
    together.wait()
    manifest = DatasetManifest.read(folder)
    shards = manifest.shards
    assert isinstance(shards, ShardTable)
    found.put((len(parsed), shards[3], np.array(manifest.extra["bucket_counts"]).tolist(), manifest.samples))


def test_of_the_ranks_of_a_node_one_parses(tmp_path: Path) -> None:
    manifest = written(tmp_path / "data", 3000)
    spawn = multiprocessing.get_context("spawn")
    together, found = spawn.Barrier(RANKS), spawn.Queue()
    given = (tmp_path / "data", tmp_path / "cache", together, found)
    ranks = [spawn.Process(target=as_rank, args=given) for _ in range(RANKS)]
    for rank in ranks:
        rank.start()
    seen = [found.get(timeout=60) for _ in ranks]
    for rank in ranks:
        rank.join()
    assert sorted(parses for parses, *_ in seen) == [0, 0, 0, 1]
    counts, samples = manifest.extra["bucket_counts"], manifest.samples
    assert all(rest == [manifest.shards[3], counts, samples] for _, *rest in seen)


def test_a_copy_says_what_the_manifest_says(tmp_path: Path) -> None:
    manifest = written(tmp_path)
    first = (tmp_path / "dataset.json").read_bytes()
    for _ in range(2):
        again = DatasetManifest.read(tmp_path)
        assert isinstance(again.shards, ShardTable)
        assert isinstance(again.extra["bucket_counts"], CountTable)
        assert again == manifest
        assert manifest == again
        assert list(again.shards) == list(manifest.shards)
        assert again.shards[1:3] == manifest.shards[1:3]
        assert again.shards[-1] == manifest.shards[-1]
        assert (again.samples, again.bytes) == (manifest.samples, manifest.bytes)
        again.write(tmp_path)
        assert (tmp_path / "dataset.json").read_bytes() == first
    with pytest.raises(IndexError):
        again.shards[5]


def test_a_changed_manifest_gets_another_copy(tmp_path: Path, copies: Path) -> None:
    written(tmp_path)
    DatasetManifest.read(tmp_path)
    other = written(tmp_path, 6)
    assert DatasetManifest.read(tmp_path) == other
    assert len(folders(copies)) == 2


def test_a_manifest_that_is_refused_leaves_no_copy(tmp_path: Path, copies: Path) -> None:
    written(tmp_path)
    path = tmp_path / "dataset.json"
    path.write_text(path.read_text().replace('"a"', '"c"'))
    for _ in range(2):
        with pytest.raises(WorkError, match="differs from its own SHA-256"):
            DatasetManifest.read(tmp_path)
    assert folders(copies) == []


@pytest.mark.parametrize("name", ["shards.npy", "names.npy", "bucket_counts.npy", "manifest.json"])
def test_a_damaged_copy_is_made_anew(
    tmp_path: Path, copies: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = written(tmp_path)
    DatasetManifest.read(tmp_path)
    (folder,) = folders(copies)
    data = bytearray((folder / name).read_bytes())
    data[-20] ^= 1
    (folder / name).write_bytes(data)
    assert DatasetManifest.read(tmp_path) == manifest
    assert "a copy of a manifest is damaged" in capsys.readouterr().err
    assert DatasetManifest.read(tmp_path) == manifest
    assert capsys.readouterr().err == ""


def test_copies_are_this_users_alone(tmp_path: Path, copies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = written(tmp_path)
    DatasetManifest.read(tmp_path)
    assert copies.stat().st_mode & 0o777 == 0o700
    (folder,) = folders(copies)
    (folder / "names.npy").write_bytes((folder / "names.npy").read_bytes())
    monkeypatch.setattr(manifest_copies, "_is_own", lambda path: path.name != "names.npy")
    parsed: list[Path] = []
    monkeypatch.setattr(DatasetManifest, "_known", counting(DatasetManifest._known, parsed))
    assert DatasetManifest.read(tmp_path) == manifest
    assert len(parsed) == 1


def test_where_no_copy_can_be_kept_the_manifest_is_read_all_the_same(
    tmp_path: Path, copies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = written(tmp_path)
    (tmp_path / "cache").write_text("a file")
    assert DatasetManifest.read(tmp_path) == manifest
    assert "every process parses" in capsys.readouterr().err


def test_a_hash_of_another_form_is_kept_in_the_manifest_alone(tmp_path: Path, copies: Path) -> None:
    record = ShardRecord(name="a", samples=1, bytes=1, sha256="none")
    manifest = replace(written(tmp_path), shards=(record,) * 5)
    manifest.write(tmp_path)
    assert DatasetManifest.read(tmp_path) == manifest
    assert folders(copies) == []


def test_copies_that_nobody_opens_go(tmp_path: Path, copies: Path) -> None:
    written(tmp_path)
    DatasetManifest.read(tmp_path)
    (old,) = folders(copies)
    for path in (old, old.with_name(old.name + ".lock")):
        os.utime(path, (0, 0))
    written(tmp_path, 6)
    DatasetManifest.read(tmp_path)
    assert not old.exists()
    assert len(list(copies.iterdir())) == 2


def test_columns_that_do_not_fit_are_no_shards() -> None:
    table = np.zeros(2, manifest_copies.arrays_of([])[0].dtype)
    with pytest.raises(ValueError, match="names"):
        ShardTable(table, np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match="no columns"):
        ShardTable(np.zeros(2), np.zeros(3, np.uint8))
    with pytest.raises(ValueError, match="no table"):
        CountTable(np.zeros(3))


def test_a_small_manifest_gets_no_copy(tmp_path: Path, copies: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest_module, "LEAST_BYTES", 1 << 20)
    manifest = written(tmp_path)
    assert DatasetManifest.read(tmp_path).shards == manifest.shards
    assert not copies.exists()


def folders(copies: Path) -> list[Path]:
    return [path for path in sorted(copies.iterdir()) if path.is_dir()] if copies.exists() else []


def counting(known: Any, parsed: list[Path]) -> Any:
    """Return what checks a parsed manifest, and notes which."""

    def counted(path: Path, raw: dict[str, Any]) -> Any:
        parsed.append(path)
        return known(path, raw)

    return counted
