"""Tars by offset: every kind of damage is an error, hostile members are refused."""

import gzip
import io
import tarfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
import webdataset

from core.errors import WorkError
from data.dataset.tars import BLOCK, members, parse_sample, samples, split_name
from tests.data.samples import tar_bytes

TEN = [(f"{k:04d}.{suffix}", bytes([k]) * 700) for k in range(10) for suffix in ("json", "png")]


@pytest.mark.parametrize("name", ["a.png", "x/a.png", "x.y/a.seg.PNG", "a", ".hidden.png", "a..png", "x/.b"])
def test_names_are_split_as_webdataset_does(name: str) -> None:
    key, suffix = webdataset.tariterators.base_plus_ext(name)
    if key is not None:
        assert split_name(name) == (key, suffix.lower())
    else:
        assert split_name(name)[1] == ""


def test_members_and_samples_by_offset(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes(TEN))
    data = path.read_bytes()
    assert [(m.name, data[m.content : m.content + m.size]) for m in members(path)] == TEN
    found = list(samples(path))
    assert [s.key for s in found] == [f"{k:04d}" for k in range(10)]
    for number, sample in enumerate(found):
        key, contents = parse_sample(data[sample.offset : sample.end])
        assert (key, contents) == (f"{number:04d}", {s: bytes([number]) * 700 for s in ("json", "png")})


SAMPLE = 2 * (BLOCK + 1024)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[: 5 * SAMPLE + 600], "damaged tar: unexpected end of data"),
        (lambda data: data[: 5 * SAMPLE], "truncated tar: no end marker at byte 15360 of 15360"),
        (lambda data: data[: 5 * SAMPLE + 100], "truncated tar"),
        (
            lambda data: data[: 5 * SAMPLE] + b"x" * BLOCK + data[5 * SAMPLE + BLOCK :],
            "bad header at byte 15360",
        ),
        (
            lambda data: data[: 5 * SAMPLE] + bytes(1024) + data[5 * SAMPLE + 1024 :],
            "bad header at byte 15360",
        ),
        (lambda data: b"", "damaged tar"),
        (lambda data: b"garbage" * 1000, "damaged tar"),
        (gzip.compress, "a tar compressed by gzip, which is not read; unpack it"),
        (lambda data: b"\x28\xb5\x2f\xfd" + data, "a tar compressed by zstd"),
    ],
    ids=[
        "inside data",
        "between members",
        "inside a header",
        "bad header",
        "hole",
        "empty",
        "garbage",
        "gzip",
        "zstd",
    ],
)
def test_every_damage_is_an_error(tmp_path: Path, damage: Callable[[bytes], bytes], message: str) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(damage(tar_bytes(TEN)))
    with pytest.raises(WorkError, match=message):
        list(samples(path))


def test_header_that_claims_terabytes_is_an_error(tmp_path: Path) -> None:
    info = tarfile.TarInfo("0.png")
    info.size = 8 * 1024**4
    path = tmp_path / "a.tar"
    path.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + b"x" * 2048)
    with pytest.raises(WorkError, match="damaged tar"):
        list(members(path))


@pytest.mark.parametrize("type", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE])
def test_links_and_devices_are_refused(tmp_path: Path, type: bytes) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes([("a.png", b"")], type=type, linkname="/etc/passwd"))
    assert [s.refused for s in samples(path)] == ["member is a link, device or sparse file"]


@pytest.mark.parametrize("name", ["../../etc/x.png", "/abs/y.png", "a/../../b.png"])
def test_names_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes([(name, b"1"), ("good.png", b"2")]))
    assert [bool(s.refused) for s in samples(path)] == [True, False]


def test_doubled_and_scattered_members_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(tar_bytes([("a.png", b"1"), ("a.png", b"2"), ("b.png", b"3"), ("a.txt", b"4")]))
    refused = [(s.key, s.refused) for s in samples(path)]
    assert refused == [
        ("a", "member 'png' is there twice"),
        ("b", ""),
        ("a", "its members do not lie side by side (tar --sort=name writes them so)"),
    ]


@pytest.mark.parametrize("cut", [(0, -1), (0, 600), (1, None), (0, 2 * SAMPLE), (512, None)])
def test_a_range_that_is_no_sample_is_an_error(cut: tuple[int, int | None]) -> None:
    data = tar_bytes(TEN)[slice(*cut)] if cut[1] is not None and cut[1] > SAMPLE else tar_bytes(TEN)[:SAMPLE]
    with pytest.raises(ValueError):
        parse_sample(data[slice(*cut)])


def block(kind: bytes, content: bytes, *, size: int | None = None, name: str = "x") -> bytes:
    """Return a header that announces `content`, followed by the content, padded."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content) if size is None else size
    return info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % BLOCK)


def pax(**fields: str) -> bytes:
    return b"".join(
        next(
            line
            for n in range(1, 10**7)
            if len(line := f"{n} {key.replace('__', '.')}={value}\n".encode()) == n
        )
        for key, value in fields.items()
    )


def old_sparse(*blocks: bytes) -> bytes:
    """Return a member of GNU's first sparse form, whose map goes on in blocks of its own."""
    info = tarfile.TarInfo("0.png")
    info.type, info.size = tarfile.GNUTYPE_SPARSE, 0
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[482] = 1
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + b"".join(blocks)


GOOD = tar_bytes([("1.png", b"2")])
HOSTILE_HEADERS = {
    "a pax header of 2 MB of digits": block(b"x", b"1" * 2_000_000),
    "a pax header that claims terabytes": block(b"x", b"", size=8 * 1024**4),
    "digits within the limit": block(b"x", pax(comment="1" * 60_000)),
    "records that overlap": block(b"x", b"1 " * 30_000 + b"="),
    "a record of length 0": block(b"x", b"0 a=b\n"),
    "a name of gigabytes": block(b"L", b"", size=1 << 33),
    "a name of a negative size": block(b"L", b"a\0", size=-(1 << 40)),
    "a link's name of 1 MB": block(b"K", b"a" * (1 << 20)),
    "a chain of pax headers": block(b"x", pax(comment="a")) * 2_000,
    "a chain of names": block(b"L", b"a\0") * 2_000,
    "many global headers": block(b"g", pax(**{f"k{n}": "v" for n in range(2_000)})) * 8,
    "a size that no file has": block(b"x", pax(size="9" * 200)) + block(b"0", b"a"),
    "a size beyond the file": block(b"x", pax(size=str(1 << 40))) + block(b"0", b"a"),
    "a sparse map without end": old_sparse(b"\1" * BLOCK * 300),
    "a sparse map that is cut off": old_sparse(),
    "a sparse map of a billion parts": block(b"x", pax(GNU__sparse__major="1", GNU__sparse__minor="0"))
    + block(b"0", b"999999\n" + b"1" * 200_000),
    "the same in a global header": block(b"g", pax(GNU__sparse__major="1", GNU__sparse__minor="0"))
    + block(b"0", b"")
    + block(b"x", pax(comment="a"))
    + block(b"0", b"999999\n" + b"1" * 200_000),
}


@pytest.mark.parametrize("header", HOSTILE_HEADERS.values(), ids=HOSTILE_HEADERS)
def test_headers_are_bounded_before_they_are_read(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "a.tar"
    path.write_bytes(header + GOOD)
    tracemalloc.start()
    start = time.process_time()
    with pytest.raises(WorkError, match=r"damaged tar|truncated tar"):
        list(members(path))
    assert time.process_time() - start < 1
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()
    with pytest.raises(ValueError):
        parse_sample(header + GOOD[: 2 * BLOCK])


def test_ordinary_long_headers_are_read(tmp_path: Path) -> None:
    name = f"{'folder/' * 300}ü.png"
    for format in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        path = tmp_path / "a.tar"
        with tarfile.open(path, "w", format=format, pax_headers={"comment": "a" * 4000}) as tar:
            for number in range(3):
                info = tarfile.TarInfo(f"{number}/{name}")
                info.size, info.mtime = 3, 1.5
                info.pax_headers = {"SCHILY.xattr.user": "a=b\n1 2=3"}
                tar.addfile(info, io.BytesIO(b"abc"))
        assert [member.name for member in members(path)] == [f"{number}/{name}" for number in range(3)]


@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0", "old"])
def test_sparse_members_are_refused_alone(tmp_path: Path, version: str) -> None:
    if version == "old":
        sparse = old_sparse(bytes(BLOCK))
    elif version == "1.0":
        fields = pax(GNU__sparse__major="1", GNU__sparse__minor="0", GNU__sparse__realsize="9999999")
        sparse = block(b"x", fields) + block(b"0", b"1\n0\n5\n".ljust(BLOCK, b"\0") + b"hello", name="0.png")
    else:
        fields = {"GNU__sparse__map": "0,5"} if version == "0.1" else {}
        sparse = block(b"x", pax(GNU__sparse__size="9999999", **fields)) + block(b"0", b"hello", name="0.png")
    path = tmp_path / "a.tar"
    path.write_bytes(sparse + GOOD)
    assert [(m.name, m.refused) for m in members(path)] == [
        ("0.png", "member is a link, device or sparse file"),
        ("1.png", ""),
    ]
