"""A new index of old tars equals the old one; what cannot be told from the tars is refused."""

import json
import os
import shutil
from dataclasses import replace
from functools import reduce
from operator import add
from pathlib import Path

import numpy as np
import pytest

from core.errors import UserError, WorkError
from core.faults import failpoints
from core.files import sealed, sha256_file, temporary_name, write_json
from data.dataset.audit import audit
from data.dataset.index import Dataset
from data.dataset.manifest import DatasetManifest, content_fingerprint
from data.latent.normalising import LatentSums
from data.latent.pack_reading import read_part
from data.latent.packs import write_part
from data.reindexing.reindex import reindex
from tests.data.caches import CLIP, IMAGE, make_cache, packs_of
from tests.data.raw_datasets import make_raw

SHARDS = [[IMAGE, CLIP, IMAGE], [CLIP] * 5 + [IMAGE], [IMAGE] * 9]
MADE = {"index.npy", "media.npy", "dataset.json"}


def finished_cache(folder: Path) -> Path:
    """Make a cache as `encode` completes it, with statistics and fingerprint of its content."""
    cache = make_cache(folder, SHARDS, absent=(4, 9), counts=True)
    parts = [read_part(folder / shard.name) for shard in cache.manifest.shards]
    sums = [reduce(add, [LatentSums.of(p.latents) for p in part if len(p.ids)]) for part in parts]
    identity = content_fingerprint(
        "latent", cache.manifest.shards, cache.manifest.files, classes=[], made_from={"encoder": "a"}
    )
    extra = {**cache.manifest.extra, "statistics": reduce(add, sums).statistics()}
    fields = {**vars(cache.manifest), "fingerprint": identity, "extra": extra}
    DatasetManifest(**fields).write(folder)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_raw(tmp_path_factory.mktemp("raw"), images=6, clips=2).folder


@pytest.fixture(params=["raw", "latent"])
def dataset(request: pytest.FixtureRequest, raw: Path, tmp_path: Path) -> Path:
    """Return a copy to change."""
    if request.param == "latent":
        return finished_cache(tmp_path / "data")
    return shutil.copytree(raw, tmp_path / "data")


def test_everything_comes_out_as_it_was(dataset: Path) -> None:
    before = contents(dataset)
    assert reindex(dataset).changed == ()
    assert contents(dataset) == before


def test_a_tar_that_a_killed_writer_left_is_no_part(dataset: Path) -> None:
    manifest = DatasetManifest.read(dataset)
    left = temporary_name(dataset / manifest.shards[0].name)
    left.write_bytes((dataset / manifest.shards[0].name).read_bytes()[:700])
    assert list(audit(dataset, manifest)) == []
    before = contents(dataset)
    assert reindex(dataset).changed == ()
    assert contents(dataset) == before


def test_a_lost_or_damaged_index_is_made_again(dataset: Path) -> None:
    before = contents(dataset)
    (dataset / "index.npy").write_bytes(b"x")
    (dataset / "media.npy").unlink(missing_ok=True)
    reindex(dataset)
    assert contents(dataset) == before


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_killed_attempt_leaves_no_index_of_another_manifest(dataset: Path, moment: str) -> None:
    """Before the files are put in place the old dataset stands; after, it is unfinished until done again."""
    before = contents(dataset)
    index = np.load(dataset / "index.npy")
    index["offset"] += 512
    np.save(dataset / "index.npy", index)
    if moment == "before":
        os.truncate(dataset / Dataset(dataset).manifest.shards[-1].name, 700)
        with pytest.raises(WorkError, match=r"truncated|damaged"):
            reindex(dataset)
        assert (dataset / "dataset.json").read_bytes() == before["dataset.json"]
        return
    failpoints.arm("reindex.publish:raise")
    try:
        with pytest.raises(WorkError, match="failpoint"):
            reindex(dataset)
    finally:
        failpoints.arm("")
    with pytest.raises(UserError, match="expected a finished dataset"):
        Dataset(dataset)
    reindex(dataset)
    assert contents(dataset) == before


def test_a_class_without_samples_keeps_its_name(raw: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(raw, tmp_path / "data")
    manifest = json.loads((folder / "dataset.json").read_text())
    manifest["classes"].append("never seen")
    write_json(folder / "dataset.json", sealed(manifest))
    assert reindex(folder).manifest.classes == ("a", "b", "never seen")


def test_a_replaced_tar_is_named_and_gives_another_fingerprint(dataset: Path) -> None:
    before = DatasetManifest.read(dataset)
    name = before.shards[-1].name
    if before.kind == "latent":
        packs = [replace(p, latents=-p.latents) for p in packs_of(9, SHARDS[2], absent=(9,))]
        write_part(dataset / name, 2, packs)
    else:
        shutil.copy(dataset / before.shards[0].name, dataset / name)
    manifest, changed = reindex(dataset)
    assert changed == (name,)
    assert manifest.fingerprint != before.fingerprint
    Dataset(dataset).verify()
    if before.kind == "latent":
        assert manifest.extra["statistics"] != before.extra["statistics"]
        assert manifest.extra["made_from"] == before.extra["made_from"]


def test_latents_need_their_manifest(tmp_path: Path) -> None:
    folder = finished_cache(tmp_path / "data")
    (folder / "dataset.json").unlink()
    with pytest.raises(UserError, match="what they were made from is recorded nowhere else"):
        reindex(folder)


def test_a_lost_part_is_no_shorter_cache(tmp_path: Path) -> None:
    folder = finished_cache(tmp_path / "data")
    (folder / "000001.tar").unlink()
    before = sha256_file(folder / "dataset.json")
    with pytest.raises(WorkError, match=r"000001.tar: missing"):
        reindex(folder)
    assert sha256_file(folder / "dataset.json") == before
