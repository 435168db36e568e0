"""Tars by offset: every kind of damage is an error, hostile members are refused."""

import tarfile
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
    ],
    ids=["inside data", "between members", "inside a header", "bad header", "hole", "empty", "garbage"],
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
        ("a", "its members do not lie side by side"),
    ]


@pytest.mark.parametrize("cut", [(0, -1), (0, 600), (1, None), (0, 2 * SAMPLE), (512, None)])
def test_a_range_that_is_no_sample_is_an_error(cut: tuple[int, int | None]) -> None:
    data = tar_bytes(TEN)[slice(*cut)] if cut[1] is not None and cut[1] > SAMPLE else tar_bytes(TEN)[:SAMPLE]
    with pytest.raises(ValueError):
        parse_sample(data[slice(*cut)])
