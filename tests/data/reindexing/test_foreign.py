"""Latent tars from elsewhere get an index, and the training reader gathers from them."""

from __future__ import annotations

import io
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import webdataset

from core.distributed.ranks import World
from core.errors import UserError, WorkError
from core.files import sha256_file
from data.dataset.index import Dataset
from data.dataset.quarantine import BudgetError, read_quarantine
from data.latent.reading import LatentReader
from data.loading.loader import LatentLoader
from data.order.steps import LoaderConfig
from data.reindexing.reindex import reindex
from tests.data.samples import tar_bytes

SHAPE = (3, 4, 4)
Members = list[tuple[str, bytes]]


def latent(number: int, shape: tuple[int, ...] = SHAPE, dtype: str = "<f2") -> np.ndarray:
    return np.random.default_rng(number).standard_normal(shape).astype(dtype)


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def with_nan() -> np.ndarray:
    array = latent(0)
    array[2, 3, 1] = np.nan
    return array


def make_tars(folder: Path, bad: Members = (), each: int = 12) -> Path:
    """Two tars of latents with labels; `bad` are further members of the second."""
    folder.mkdir()
    for tar in range(2):
        members: Members = []
        for number in range(tar * each, (tar + 1) * each):
            label = ("json", b'{"label": %d}' % (number % 3)) if tar else ("cls", b"%d" % (number % 3))
            members += [(f"{number:04d}.npy", npy(latent(number))), (f"{number:04d}.{label[0]}", label[1])]
        (folder / f"{tar}.tar").write_bytes(tar_bytes(members + list(bad) * tar))
    return folder


def test_the_reader_gathers_what_the_tars_hold(tmp_path):
    folder = make_tars(tmp_path / "data")
    manifest, changed = reindex(folder)
    assert (manifest.kind, manifest.samples, changed) == ("latent", 24, ())
    assert manifest.buckets == ([1, 3, 1, 4, 4],)
    assert manifest.classes == ("0", "1", "2")
    data = Dataset(folder)
    data.verify()
    rows = np.array([23, 0, 7, 7, 12])
    gathered = LatentReader(folder, data.manifest, data.index).gather(rows)
    assert (gathered.numpy()[:, 0, :, 0] == np.stack([latent(row) for row in rows])).all()
    assert data.index["label"].tolist() == [number % 3 for number in range(24)]


def test_training_sees_every_sample_of_them_once_an_epoch(tmp_path):
    folder = make_tars(tmp_path / "data")
    reindex(folder)
    config = LoaderConfig(group_size=8)
    loader = LatentLoader([Dataset(folder)], config, World(0, 1, 0, torch.device("cpu")), seed=1)
    batches = [batch for step in range(3) for batch in loader.load(step)]
    assert sorted(id for batch in batches for id in batch.id.tolist()) == list(range(24))
    for batch in batches:
        assert batch.weight.all()
        for id, label, x in zip(batch.id.tolist(), batch.condition.label, batch.x.numpy(), strict=True):
            assert int(label) == id % 3
            assert (x[0, :, 0] == latent(id)).all()


def test_tars_as_webdataset_writes_them(tmp_path):
    with webdataset.TarWriter(str(tmp_path / "0.tar")) as writer:
        for number in range(5):
            writer.write({"__key__": f"{number:04d}", "latent.npy": latent(number), "cls": number})
    reindex(tmp_path)
    data = Dataset(tmp_path)
    gathered = LatentReader(tmp_path, data.manifest, data.index).gather(np.arange(5))
    assert (gathered.numpy()[:, 0, :, 0] == np.stack([latent(number) for number in range(5)])).all()


@pytest.mark.parametrize(
    ("shape", "taken"),
    [
        ((3, 4, 4), [1, 3, 1, 4, 4]),
        ((3, 5, 4, 4), [1, 3, 5, 4, 4]),
        ((1, 3, 5, 4, 4), [1, 3, 5, 4, 4]),
        ((2, 3, 1, 4, 4), [2, 3, 1, 4, 4]),
    ],
)
def test_shapes_that_are_latents(tmp_path, shape, taken):
    (tmp_path / "0.tar").write_bytes(tar_bytes([("a.npy", npy(latent(0, shape)))]))
    assert list(reindex(tmp_path).manifest.buckets) == [taken]


def test_several_shapes_are_several_buckets(tmp_path):
    members = [(f"{n}.npy", npy(latent(n, (3, 4, 4) if n % 2 else (3, 2, 8)))) for n in range(6)]
    (tmp_path / "0.tar").write_bytes(tar_bytes(members))
    reindex(tmp_path)
    data = Dataset(tmp_path)
    assert data.manifest.extra["bucket_counts"] == [[3, 3]]
    wide = LatentReader(tmp_path, data.manifest, data.index).gather(np.array([4, 0]))
    assert (wide.numpy()[:, 0, :, 0] == np.stack([latent(n, (3, 2, 8)) for n in (4, 0)])).all()


BAD = {
    "shape": ([("x.npy", npy(latent(0, (4, 4))))], r"an array of shape \(4, 4\); latents are \(C, H, W\)"),
    "channels": ([("x.npy", npy(latent(0, (8, 4, 4))))], "has M=1 and C=8, the first sample M=1 and C=3"),
    "dtype": ([("x.npy", npy(latent(0, dtype="<f4")))], "holds float32, expected float16"),
    "NaN": ([("x.npy", npy(with_nan()))], "holds values that are not finite"),
    "no array": ([("x.npy", b"not an array")], "no .npy array"),
    "cut off": ([("x.npy", npy(latent(0))[:-2])], "bytes, which is not what shape"),
    "two": ([("x.npy", npy(latent(0))), ("x.b.npy", npy(latent(0)))], "has 2 .npy members, expected 1"),
    "none": ([("x.json", b"{}")], "has 0 .npy members, expected 1"),
    "label": ([("x.npy", npy(latent(0))), ("x.cls", b"cat food\xff")], "not UTF-8"),
    "object": ([("x.npy", npy(np.array([{}], object)))], "holds objects"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_bad_member_is_set_aside(tmp_path, what):
    members, why = BAD[what]
    folder = make_tars(tmp_path / "data", members)
    with pytest.raises(BudgetError, match="1 of 25 samples were set aside, more than the budget of 0"):
        reindex(folder)
    assert not (folder / "dataset.json").exists()
    reindex(folder, budget=1)
    data = Dataset(folder)
    data.verify()
    (entry,) = read_quarantine(folder)
    assert entry.id == 24
    assert entry.stage == "latents"
    assert re.search(rf"1\.tar: x: .*{why}", entry.error)
    assert data.index["size"][24] == 0
    loader = LatentLoader([data], LoaderConfig(group_size=8), World(0, 1, 0, torch.device("cpu")), seed=1)
    assert 24 not in [id for step in range(6) for id in loader.load(step)[0].id.tolist()]
    shutil.copy(folder / "0.tar", folder / "1.tar")
    reindex(folder)
    assert read_quarantine(folder) == []


def test_what_was_stated_of_the_encoder_stays(tmp_path):
    folder = make_tars(tmp_path / "data")
    assert reindex(folder).manifest.extra["made_from"]["encoder"] == "not stated"
    stated = reindex(folder, made_from={"encoder": "abc", "encoder_config": {"width": 8}}).manifest
    assert stated.extra["made_from"]["encoder"] == "abc"
    before = sha256_file(folder / "dataset.json")
    assert reindex(folder).manifest == stated
    assert sha256_file(folder / "dataset.json") == before


def test_a_tar_without_a_usable_sample_and_a_damaged_one_are_refused(tmp_path):
    folder = make_tars(tmp_path / "data")
    whole = (folder / "1.tar").read_bytes()
    (folder / "1.tar").write_bytes(whole[:3000])
    with pytest.raises(WorkError, match=r"1\.tar: .*(truncated|damaged)"):
        reindex(folder)
    for tar in folder.iterdir():
        tar.unlink() if tar.suffix == ".tar" else None
    (folder / "0.tar").write_bytes(tar_bytes([("x.npy", npy(with_nan()))]))
    with pytest.raises(UserError, match=r"no sample can be used; the first: 0\.tar: x: .* not finite"):
        reindex(folder, budget=1)
