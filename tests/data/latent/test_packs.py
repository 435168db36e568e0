"""Packed parts: stock readers read them, damage is named, the index can be made again."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile

import numpy as np
import pytest

from core.errors import WorkError
from data.latent.members import is_finite, plain_tar_header, tar_header
from data.latent.pack_reading import read_part, scan_part
from data.latent.pack_rows import index_rows
from data.latent.packs import LATENT_DTYPE, Absent, Pack, write_part
from tests.data.caches import CLIP, IMAGE, latents_of, packs_of

SHAPES = [IMAGE, CLIP, IMAGE, IMAGE, IMAGE, IMAGE, CLIP]


@pytest.fixture
def part(tmp_path):
    path = tmp_path / "000003.tar"
    write_part(path, 3, packs_of(100, SHAPES, absent=[102]))
    return path


def test_a_part_reads_back(part):
    packs = list(read_part(part))
    assert [len(pack.ids) for pack in packs] == [4, 2]
    for pack in packs:
        for row, label, latents in zip(pack.ids, pack.labels, pack.latents, strict=True):
            assert label == row % 10
            assert (latents == latents_of(int(row), SHAPES[row - 100])).all()
    assert packs[-1].absent == (Absent(102, 2, IMAGE),)
    assert packs[0].absent == ()


def test_plain_tarfile_and_numpy_read_it_without_this_project(part):
    program = """
import io, json, sys, tarfile
import numpy as np
with tarfile.open(sys.argv[1]) as tar:
    for member in tar:
        assert member.isfile() and member.mtime == 0 and not member.pax_headers, member
        data = tar.extractfile(member).read()
        if member.name.endswith(".npy"):
            array = np.load(io.BytesIO(data), allow_pickle=False)
            print(member.name, array.dtype.str, "x".join(map(str, array.shape)))
        else:
            print(member.name, json.loads(data)["samples"])
assert not any(name.split(".")[0] in ("core", "data") for name in sys.modules)
"""
    lines = subprocess.run(
        [sys.executable, "-I", "-c", program, part], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert lines == [
        "000003-0000.latent.npy <f2 4x2x3x1x4x4",
        "000003-0000.id.npy <u8 4",
        "000003-0000.label.npy <i8 4",
        "000003-0000.json 4",
        "000003-0001.latent.npy <f2 2x2x3x3x4x4",
        "000003-0001.id.npy <u8 2",
        "000003-0001.label.npy <i8 2",
        "000003-0001.json 2",
    ]


def test_stock_webdataset_reads_it(part):
    webdataset = pytest.importorskip("webdataset")
    samples = list(webdataset.WebDataset(str(part), shardshuffle=False).decode())
    assert [sample["__key__"] for sample in samples] == ["000003-0000", "000003-0001"]
    assert samples[0]["id.npy"].tolist() == [100, 103, 104, 105]
    assert (samples[1]["latent.npy"][1] == latents_of(106, CLIP)).all()


def test_a_scan_finds_the_same_as_the_writer_knew(part, tmp_path):
    written = write_part(tmp_path / "again.tar", 3, packs_of(100, SHAPES, absent=[102]))
    for a, b in zip(written, scan_part(part), strict=True):
        assert (a.shape, a.offset, a.absent) == (b.shape, b.offset, b.absent)
        assert a.ids.tolist() == b.ids.tolist()
        assert a.labels.tolist() == b.labels.tolist()


def test_index_rows_are_in_order_and_point_at_the_bytes(part):
    rows = index_rows(part, scan_part(part), shard=3, first=100, buckets=[IMAGE, CLIP])
    assert rows["id"].tolist() == list(range(100, 107))
    assert rows["bucket"].tolist() == [SHAPES.index(shape) for shape in SHAPES]
    assert rows["label"].tolist() == [row % 10 for row in range(100, 107)]
    assert (rows["shard"] == 3).all()
    data = part.read_bytes()
    for row in rows:
        stored = data[row["offset"] : row["offset"] + row["size"]]
        if row["id"] == 102:
            assert stored == b""
        else:
            assert stored == latents_of(int(row["id"]), SHAPES[row["id"] - 100]).tobytes()


def test_a_part_may_hold_nothing_but_absent_samples(tmp_path):
    path = tmp_path / "000000.tar"
    write_part(path, 0, packs_of(0, [IMAGE], absent=[0]))
    rows = index_rows(path, scan_part(path), shard=0, first=0, buckets=[IMAGE])
    assert rows["size"].tolist() == [0]
    assert [len(pack.ids) for pack in read_part(path)] == [0]


def test_equal_packs_give_equal_bytes(part, tmp_path):
    write_part(tmp_path / "b.tar", 3, packs_of(100, SHAPES, absent=[102]))
    assert (tmp_path / "b.tar").read_bytes() == part.read_bytes()


def test_little_more_than_the_payload_is_written(tmp_path):
    packs = [
        Pack(np.zeros((64, 1, 4, 1, 32, 32), LATENT_DTYPE), np.arange(64) + 64 * i, np.zeros(64, np.int64))
        for i in range(16)
    ]
    write_part(tmp_path / "000000.tar", 0, packs)
    assert (tmp_path / "000000.tar").stat().st_size <= 1.03 * 16 * 64 * 8192


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_not_written(tmp_path, value):
    packs = packs_of(0, [IMAGE])
    packs[0].latents[0, 1, 2, 0, 3, 3] = value
    with pytest.raises(ValueError, match="not finite"):
        write_part(tmp_path / "000000.tar", 0, packs)
    assert list(tmp_path.iterdir()) == []


def test_the_fast_check_of_arrays_finds_what_isfinite_finds():
    bits = np.arange(2**16, dtype=np.uint16).view(np.float16)
    assert [is_finite(value) for value in bits[:, None]] == np.isfinite(bits).tolist()
    assert is_finite(bits[:0])


@pytest.mark.parametrize("name", ["a", "000000-0001.latent.npy", "x" * 100])
@pytest.mark.parametrize("size", [0, 1, 524416, 8**11 - 1])
def test_the_fast_header_is_that_of_tarfile(name, size):
    assert tar_header(name, size) == plain_tar_header(name, size)


def test_a_killed_writer_leaves_no_part(tmp_path):
    def packs():
        yield packs_of(0, [IMAGE])[0]
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        write_part(tmp_path / "000000.tar", 0, packs())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("cut", [100, 600, 1500, 5000])
def test_a_cut_off_part_is_named(part, cut):
    data = part.read_bytes()
    whole = 512 * (len(data.rstrip(b"\0")) // 512 + 1)
    part.write_bytes(data[: whole - cut])
    with pytest.raises(WorkError, match=r"000003\.tar"):
        list(read_part(part))


@pytest.mark.parametrize("position", [257, 148])
def test_a_damaged_header_in_the_middle_is_not_the_end(part, position):
    data = bytearray(part.read_bytes())
    second = next(place.offset for place in scan_part(part)[1:]) - 128 - 512
    data[second + position] ^= 0xFF
    part.write_bytes(data)
    with pytest.raises(WorkError, match=r"000003\.tar"):
        scan_part(part)


def rewritten(part, name: str, content: bytes) -> None:
    """Replace one member's content."""
    with tarfile.open(part) as tar:
        members = [(m.name, tar.extractfile(m).read()) for m in tar]
    with tarfile.open(part, "w", format=tarfile.USTAR_FORMAT) as tar:
        for old, data in members:
            info = tarfile.TarInfo(old)
            data = content if old == name else data
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("latent.npy", npy(np.zeros((4, *IMAGE), np.float32)), "holds float32, expected float16"),
        ("latent.npy", npy(np.zeros((3, *IMAGE), np.float16)), "do not agree in shape"),
        ("latent.npy", npy(np.zeros((4, *CLIP), np.float16)), "do not agree in shape"),
        ("latent.npy", npy(np.full((4, *IMAGE), np.nan, np.float16)), "not finite"),
        ("latent.npy", npy(np.zeros((4, *IMAGE), np.float16))[:-2], "is not what shape"),
        ("latent.npy", b"not an array", "is no .npy array"),
        ("id.npy", npy(np.array([{}, 1, 2, 3], object)), "it holds objects"),
        ("label.npy", npy(np.zeros(5, np.int64)), "do not agree in shape"),
        ("json", b"{", "000003-0000.json: not readable as JSON"),
        ("json", b"[1]", "000003-0000.json: a list of 1: expected an object"),
    ],
)
def test_a_wrong_member_is_named(part, name, content, says):
    rewritten(part, f"000003-0000.{name}", content)
    with pytest.raises(WorkError, match=says):
        list(read_part(part))


def test_foreign_members_and_missing_ones_are_named(part):
    with tarfile.open(part, "a") as tar:
        tar.addfile(tarfile.TarInfo("000003-0002.latent.npy"))
    with pytest.raises(WorkError, match="000003-0002 is no pack of latents"):
        scan_part(part)


@pytest.mark.parametrize("first", [99, 101])
def test_a_part_of_other_rows_is_refused(part, first):
    with pytest.raises(WorkError, match="sample ids"):
        index_rows(part, scan_part(part), shard=3, first=first, buckets=[IMAGE, CLIP])
