"""Damage to one of three shards, of each kind that streaming readers meet: found, named, nothing mixed up.

Keys are the same in every shard, so that a reader that runs on at the end of a cut shard would join the
picture of one sample to the caption of another. Hostile members do nothing at all.
"""

import dataclasses
import io
import json
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import webdataset

from core.errors import UserError, WorkError
from data.dataset.audit import audit
from data.dataset.index import Dataset
from data.dataset.manifest import DatasetManifest
from data.dataset.tars import samples
from data.latent.pack_reading import read_part
from data.latent.parts import Parts
from data.raw.ingest import list_source
from data.reindexing.reindex import reindex
from launch import cli
from tests.data.samples import image_bytes, picture, tar_bytes
from tools.shard.job import Config, run

EACH = 10  # samples of a shard
BLOCK = tarfile.BLOCKSIZE


every_reader = pytest.mark.parametrize(
    "reads",
    [
        pytest.param(lambda tar: Dataset(tar.parent).read(0), id="dataset"),
        pytest.param(lambda tar: list(samples(tar)), id="listing"),
        pytest.param(lambda tar: reindex(tar.parent), id="reindex"),
        pytest.param(lambda tar: list_source(tar.parent), id="ingest"),
        pytest.param(lambda tar: list(read_part(tar)), id="part"),
        pytest.param(lambda tar: _parts(tar), id="parts"),
    ],
)


def _parts(tar: Path) -> Any:
    return Parts(tar.parent, DatasetManifest.read(tar.parent)).mapped(0)


def members_of(shard: int) -> list[tuple[str, bytes]]:
    """Return picture and caption of ten samples; both say of which shard and sample they are."""
    found = []
    for k in range(EACH):
        pixels = picture(16, 16, seed=10 * shard + k)
        found.append((f"{k:04d}.png", image_bytes(pixels)))
        found.append((f"{k:04d}.txt", f"shard {shard} sample {k}".encode()))
    return found


def whole() -> list[bytes]:
    return [tar_bytes(members_of(shard)) for shard in range(3)]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    for shard, data in enumerate(whole()):
        (folder / f"{shard}.tar").write_bytes(data)
    reindex(folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """Return a copy to damage."""
    return shutil.copytree(made, tmp_path / "data")


def header(name: str) -> int:
    """Return the offset of a member in the middle shard."""
    with tarfile.open(fileobj=io.BytesIO(whole()[1])) as tar:
        return tar.getmember(name).offset


def content(name: str) -> int:
    return header(name) + BLOCK


def overwritten(data: bytes, at: int, new: bytes) -> bytes:
    return data[:at] + new + data[at + len(new) :]


def doubled(data: bytes) -> bytes:
    members = members_of(1)
    return tar_bytes([*members[:9], members[8], *members[9:]])


def scattered(data: bytes) -> bytes:
    members = members_of(1)
    return tar_bytes([*members[:9], *members[10:], members[9]])


@dataclasses.dataclass(frozen=True)
class Damage:
    """A damage. change: of the middle shard's bytes. shows: the tar's structure is broken. unreadable: rows
    of it.

    Where headers are damaged but nothing is moved, reading by offset still gives all the other samples.
    """

    change: Callable[[bytes], bytes | None]
    shows: bool
    unreadable: int


DAMAGES = {
    "cut inside a picture": Damage(lambda data: data[: content("0004.png") + 50], True, 10),
    "cut inside a caption": Damage(lambda data: data[: content("0000.txt") + 5], True, 10),
    "cut between members": Damage(lambda data: data[: header("0005.png")], True, 10),
    "cut inside a header": Damage(lambda data: data[: header("0005.png") + 200], True, 10),
    "bad header": Damage(lambda data: overwritten(data, header("0005.png") + 100, b"garbage!"), True, 1),
    "hole of zeros": Damage(lambda data: overwritten(data, header("0005.png"), bytes(1024)), True, 1),
    "empty file": Damage(lambda data: b"", True, 10),
    "garbage": Damage(lambda data: b"\x07garbage" * 2000, True, 10),
    "missing file": Damage(lambda data: None, False, 10),
    "flipped bit": Damage(lambda data: overwritten(data, content("0004.png") + 40, b"\xaa"), False, 0),
    "member twice": Damage(doubled, False, 6),
    "scattered members": Damage(scattered, False, 6),
    "another shard's copy": Damage(lambda data: whole()[0], False, 0),
}
every_damage = pytest.mark.parametrize("damage", DAMAGES)


def inflict(folder: Path, damage: str) -> None:
    new = DAMAGES[damage].change((folder / "1.tar").read_bytes())
    if new is None:
        (folder / "1.tar").unlink()
    else:
        (folder / "1.tar").write_bytes(new)


def expected(row: int) -> dict[str, bytes]:
    (_, png), (_, txt) = members_of(row // EACH)[2 * (row % EACH) :][:2]
    return {"png": png, "txt": txt}


def test_undamaged_samples_are_what_was_written(made: Path) -> None:
    assert all(Dataset(made).read(row) == expected(row) for row in range(30))


@every_damage
def test_the_damaged_shard_is_named_and_no_other(folder: Path, damage: str) -> None:
    inflict(folder, damage)
    manifest = DatasetManifest.read(folder)
    findings = list(audit(folder, manifest))
    assert [finding.name for finding in findings] == ["1.tar"]
    told = findings[0].problem
    assert ("is missing" in told) == (damage == "missing file")
    assert ("a whole tar of" in told) == (not DAMAGES[damage].shows and damage != "missing file")
    status = cli.main(["inspect", str(folder), "action=verify"])
    assert status == 1


@every_damage
def test_every_read_gives_the_sample_or_an_error(folder: Path, damage: str) -> None:
    """Never a part of a sample, never parts of two; only a flipped bit needs `verify`."""
    inflict(folder, damage)
    if damage == "missing file":
        with pytest.raises(WorkError, match=r"1.tar: missing \(1 shard in all"):
            Dataset(folder)
        return
    dataset = Dataset(folder)
    unreadable = []
    for row in range(30):
        try:
            found = dataset.read(row)
        except WorkError as error:
            unreadable.append((row // EACH, "1.tar" in str(error)))
            continue
        if damage == "another shard's copy" and row // EACH == 1:
            assert found == expected(row - EACH)  # a whole sample, if not the one: the hash tells
        elif not (damage == "flipped bit" and row == 14):
            assert found == expected(row)
    assert unreadable == [(1, True)] * DAMAGES[damage].unreadable


@every_damage
def test_packing_again_refuses_or_sets_aside_and_mixes_nothing(
    folder: Path, tmp_path: Path, damage: str
) -> None:
    """A damaged tar is an error as a source of `shard`; members that lie apart are set aside one by one."""
    inflict(folder, damage)
    if DAMAGES[damage].shows:
        with pytest.raises(WorkError, match=r"1.tar: (damaged|truncated) tar"):
            list_source(folder)
        with pytest.raises(WorkError, match=r"1.tar: (damaged|truncated) tar"):
            reindex(folder)
        return
    run(Config(source=str(folder), output=str(tmp_path / "out"), quarantine_budget=5.0))
    dataset = Dataset(tmp_path / "out")
    whole_samples = {row: expected(row) for row in range(30)}
    by_picture = {sample["png"]: sample["txt"].decode() for sample in whole_samples.values()}
    for row in range(len(dataset)):
        sample = dataset.read(row)
        assert json.loads(sample["json"])["text"] == by_picture[sample["png"]]
    lost = {"member twice": 1, "scattered members": 1, "flipped bit": 1, "missing file": 10}.get(damage, 0)
    assert len(dataset) == 30 - lost


def test_stock_readers_lose_the_rest_of_a_cut_shard_and_say_nothing(folder: Path) -> None:
    """Stock readers are not trusted with raw tars here, because they give ten samples less and no error."""
    inflict(folder, "hole of zeros")
    urls = [str(folder / f"{shard}.tar") for shard in range(3)]
    stock = webdataset.WebDataset(urls, shardshuffle=False, empty_check=False)
    assert sum(1 for _ in stock) == 25


def test_index_older_than_its_tar(folder: Path) -> None:
    """A tar that was written anew, whole, with longer captions: all its samples lie elsewhere."""
    longer = [(name, data + b" " * 600 if name.endswith("txt") else data) for name, data in members_of(1)]
    (folder / "1.tar").write_bytes(tar_bytes(longer))
    findings = list(audit(folder, DatasetManifest.read(folder)))
    assert [finding.name for finding in findings] == ["1.tar"]
    assert "a whole tar of 10 samples, but not the one that was indexed" in findings[0].problem
    with pytest.raises(WorkError, match=r"1.tar"):
        Dataset(folder).read(11)
    assert reindex(folder).changed == ("1.tar",)
    assert Dataset(folder).read(11)["txt"] == expected(11)["txt"] + b" " * 600
    Dataset(folder).verify()


def test_newer_format_version(folder: Path) -> None:
    manifest = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(manifest | {"format_version": 3}))
    with pytest.raises(UserError, match=r"format_version=3: expected 1 or 2 \(written by a newer longtake\)"):
        Dataset(folder)


CANARY = "canary"


def payload(canary: Path) -> bytes:
    """Return a pickle that writes a file when it is loaded."""
    code = f"open({str(canary)!r}, 'w').write('x')"
    return b"cbuiltins\nexec\n(V" + code.encode() + b"\ntR."


def hostile_tar(path: Path, canary: Path) -> None:
    """Write one good sample among members that would do harm in careless hands."""
    bad = payload(canary)
    plain = [
        ("../escaped.png", image_bytes(picture())),
        (f"{canary.parent}/absolute.png", image_bytes(picture())),
        ("a/../../up.png", image_bytes(picture())),
        ("good.png", image_bytes(picture(seed=5))),
        ("good.pyd", bad),
        ("good.pickle", bad),
        ("good.pth", bad),
        ("only.pkl", bad),
        ("pipe.txt", b"pipe:touch " + str(canary).encode()),
    ]
    links = [
        ("link.png", tarfile.SYMTYPE, "/etc/passwd"),
        ("hard.png", tarfile.LNKTYPE, "good.png"),
        ("device.png", tarfile.CHRTYPE, ""),
        ("block.png", tarfile.BLKTYPE, ""),
        ("fifo.png", tarfile.FIFOTYPE, ""),
    ]
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for name, data in plain:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        for name, kind, target in links:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, target
            tar.addfile(info)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    """Make a folder with a hostile tar, deep enough that `../..` would land where it is seen."""
    folder = tmp_path / "a" / "b" / "source"
    folder.mkdir(parents=True)
    hostile_tar(folder / "x.tar", tmp_path / CANARY)
    return folder


def everything(root: Path) -> set[str]:
    return {str(path.relative_to(root)) for path in root.rglob("*")}


def test_the_payload_would_do_harm(tmp_path: Path) -> None:
    import pickle

    pickle.loads(payload(tmp_path / CANARY))
    assert (tmp_path / CANARY).exists()


def test_hostile_members_are_set_aside_and_do_nothing(hostile: Path, tmp_path: Path) -> None:
    before = everything(tmp_path)
    output = tmp_path / "a" / "b" / "out"
    run(Config(source=str(hostile), output=str(output), quarantine_budget=20.0))
    dataset = Dataset(output)
    assert len(dataset) == 1
    sample = dataset.read(0)
    assert sorted(sample) == ["json", "png"]  # and no `pyd`, `pickle` or `pth`
    assert sample["png"] == image_bytes(picture(seed=5))
    new = everything(tmp_path) - before
    assert all(name == "a/b/out" or name.startswith("a/b/out/") for name in new)
    reasons = [json.loads(line)["error"] for line in (output / "quarantine.jsonl").read_text().splitlines()]
    assert sum("leads out of its folder" in reason for reason in reasons) == 3
    assert sum("link, device or sparse" in reason for reason in reasons) == 5
    assert sum("has 0 images or videos" in reason for reason in reasons) == 2
    assert not (tmp_path / CANARY).exists()


def test_hostile_tars_are_not_indexed_in_place(hostile: Path, tmp_path: Path) -> None:
    before = everything(tmp_path)
    with pytest.raises(UserError, match="leads out of its folder"):
        reindex(hostile)
    assert everything(tmp_path) == before


def test_names_in_a_manifest_cannot_lead_out(folder: Path) -> None:
    manifest = DatasetManifest.read(folder)
    shards = tuple(dataclasses.replace(shard, name=f"../{shard.name}") for shard in manifest.shards)
    dataclasses.replace(manifest, shards=shards).write(folder)
    with pytest.raises(WorkError, match="expected a plain file name"):
        Dataset(folder)


def test_an_index_with_objects_is_not_unpickled(folder: Path, tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str, str]]:
            return (Path.write_text, (tmp_path / CANARY, "x"))  # type: ignore[return-value]

    np.save(folder / "index.npy", np.array([Payload()], object), allow_pickle=True)
    assert not (tmp_path / CANARY).exists()
    with pytest.raises(WorkError, match=r"not a readable index \(it holds objects\)"):
        Dataset(folder)
    assert cli.main(["inspect", str(folder), "action=verify"]) == 1
    assert not (tmp_path / CANARY).exists()


@every_reader
def test_a_pipe_in_place_of_a_tar_is_refused_and_not_waited_for(
    folder: Path, reads: Callable[[Path], Any]
) -> None:
    """A plain open of a pipe waits until another process writes to it."""
    path = folder / DatasetManifest.read(folder).shards[0].name
    path.unlink()
    os.mkfifo(path)
    with pytest.raises((OSError, WorkError), match="not a regular file"):
        reads(path)
