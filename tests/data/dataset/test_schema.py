"""Manifest and index dtypes."""

import json
from pathlib import Path

import numpy as np
import pytest

from core.errors import UserError, WorkError
from data.dataset.manifest import DatasetManifest, content_fingerprint
from data.dataset.schema import INDEX_DTYPE, MEDIA_DTYPE, write_index
from data.dataset.shared.shard_table import ShardRecord


def manifest() -> DatasetManifest:
    shards = (ShardRecord(name="a-000000.tar", samples=3, bytes=10240, sha256="0" * 64),)
    fingerprint = content_fingerprint("raw", shards, {})
    return DatasetManifest(
        kind="raw",
        fingerprint=fingerprint,
        shards=shards,
        classes=("cat", "Hünd"),
        buckets=("image", "video"),
    )


def test_index_rows_are_little_endian_and_packed() -> None:
    assert (INDEX_DTYPE.itemsize, MEDIA_DTYPE.itemsize) == (30, 41)
    row = np.zeros(1, INDEX_DTYPE)
    row["id"], row["label"] = 1, -1
    assert row.tobytes() == b"\1" + b"\0" * 25 + b"\xff" * 4


def test_manifest_round_trip_is_byte_stable(tmp_path: Path) -> None:
    manifest().write(tmp_path)
    first = (tmp_path / "dataset.json").read_bytes()
    again = DatasetManifest.read(tmp_path)
    assert again == manifest()
    assert (again.samples, again.bytes) == (3, 10240)
    again.write(tmp_path)
    assert (tmp_path / "dataset.json").read_bytes() == first


def test_folder_without_manifest_is_a_users_mistake(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"expected a finished dataset .*dataset.json\); this folder is empty"
    ):
        DatasetManifest.read(tmp_path)


@pytest.mark.parametrize("place", [b'"cat"', b'"image"', b'"raw"', b'"0000', b'"shards": 1', b'"sha256"'])
def test_no_word_of_a_manifest_changes_unnoticed(tmp_path: Path, place: bytes) -> None:
    manifest().write(tmp_path)
    path = tmp_path / "dataset.json"
    data = bytearray(path.read_bytes())
    for at in range(data.index(place) + 1, data.index(place) + len(place)):
        changed = data.copy()
        changed[at] ^= 1
        path.write_bytes(changed)
        with pytest.raises((UserError, WorkError), match=r"dataset\.json"):
            DatasetManifest.read(tmp_path)


def test_a_changed_class_name_is_noticed(tmp_path: Path) -> None:
    manifest().write(tmp_path)
    edit(tmp_path, classes=["cow", "Hünd"])
    with pytest.raises(WorkError, match=r"dataset.json is damaged: it differs from its own SHA-256"):
        DatasetManifest.read(tmp_path)


def test_a_manifest_of_an_earlier_version_has_no_hash_of_itself(tmp_path: Path) -> None:
    manifest().write(tmp_path)
    path = tmp_path / "dataset.json"
    record = json.loads(path.read_text())
    del record["sha256"]
    path.write_text(json.dumps(record))
    assert DatasetManifest.read(tmp_path) == manifest()


def test_newer_format_is_refused(tmp_path: Path) -> None:
    manifest().write(tmp_path)
    edit(tmp_path, format_version=3)
    with pytest.raises(UserError, match=r"format_version=3: expected 1 or 2 \(written by a newer longtake\)"):
        DatasetManifest.read(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"surprise": 1}, '"surprise" is not known'),
        ({"kind": "cooked"}, "expected raw or latent"),
        ({"totals": {"samples": 4, "bytes": 10240, "shards": 1}}, "do not match"),
        ({"shards": [{"name": "../x.tar", "samples": 3, "bytes": 10240, "sha256": ""}]}, "plain file name"),
        ({"shards": [{"name": "x.tar"}]}, '"bytes", "samples", "sha256" are missing'),
    ],
)
def test_damaged_manifest_is_named(tmp_path: Path, change: dict, message: str) -> None:
    manifest().write(tmp_path)
    edit(tmp_path, **change)
    with pytest.raises(WorkError, match=message):
        DatasetManifest.read(tmp_path)


@pytest.mark.parametrize(
    ("buckets", "extra", "message"),
    [
        ([[2, 4, 1, 8]], {}, r"buckets\[0\]=a list of 4: expected a list of 5"),
        ([[2, 4, 1, 8, -1]], {}, r"buckets\[0\]\[4\]=-1"),
        ([[2, 3, 1, 8, 8]], {}, "different numbers of channels"),
        ([[2, 4, 1, 8, 8]], {"bucket_counts": [[3], [3]]}, "no table of 1 shards by 1 shapes"),
        ([[2, 4, 1, 8, 8]], {"bucket_counts": [[3, 0]]}, "no table of 1 shards by 1 shapes"),
        ([[2, 4, 1, 8, 8]], {"statistics": None}, "extra.statistics=null: expected an object"),
        ([[2, 4, 1, 8, 8]], {"made_from": {}}, 'extra.made_from: "encoder" is missing'),
        ([[2, 4, 1, 8, 8]], {"longest_text": 2**20}, "longest_text=1048576: expected a number from 0 to"),
    ],
)
def test_what_a_cache_says_of_itself_is_checked(
    tmp_path: Path, buckets: list, extra: dict, message: str
) -> None:
    manifest().write(tmp_path)
    good = {"made_from": {"encoder": "a"}, "statistics": {"mean": [0.0] * 4, "std": [1.0] * 4}}
    edit(tmp_path, kind="latent", buckets=buckets, extra=good | extra)
    with pytest.raises(WorkError, match=message):
        DatasetManifest.read(tmp_path)


def test_cut_off_manifest_is_named(tmp_path: Path) -> None:
    manifest().write(tmp_path)
    path = tmp_path / "dataset.json"
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(WorkError, match="not readable as JSON"):
        DatasetManifest.read(tmp_path)


def edit(folder: Path, **change: object) -> None:
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def test_fingerprint_follows_content() -> None:
    shard = manifest().shards[0]
    other = ShardRecord(name=shard.name, samples=3, bytes=10240, sha256="1" * 64)
    assert content_fingerprint("raw", [shard], {}) == content_fingerprint("raw", [shard], {})
    assert content_fingerprint("raw", [shard], {}) != content_fingerprint("raw", [other], {})
    assert content_fingerprint("raw", [shard], {}, classes=["a"]) != content_fingerprint("raw", [shard], {})


def test_write_index_returns_hashes_and_refuses_other_dtypes(tmp_path: Path) -> None:
    index, media = np.zeros(4, INDEX_DTYPE), np.zeros(4, MEDIA_DTYPE)
    files = write_index(tmp_path, index, media)
    assert files.keys() == {"index.npy", "media.npy"}
    assert np.load(tmp_path / "index.npy", allow_pickle=False).dtype == INDEX_DTYPE
    with pytest.raises(ValueError, match=r"media\.npy"):
        write_index(tmp_path, index, media[:3])
