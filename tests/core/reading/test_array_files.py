"""`.npy` and `.npz`: arrays as NumPy writes them, and nothing else, before anything is allocated."""

from __future__ import annotations

import contextlib
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from core.reading.array_files import DamagedArray, mapped, open_archive, parse
from data.dataset.schema import INDEX_DTYPE


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


@pytest.mark.parametrize(
    "array",
    [
        np.zeros(3, INDEX_DTYPE),
        np.arange(6, dtype="<u2").reshape(2, 3),
        np.array("a text"),
        np.array(1.5),
        np.zeros((0, 4)),
        np.ones(2, bool),
    ],
)
def test_what_numpy_writes_comes_back(tmp_path: Path, array: np.ndarray) -> None:
    np.save(tmp_path / "a.npy", array)
    for found in (mapped(tmp_path / "a.npy"), parse(bytearray(npy(array)))):
        assert found.dtype == array.dtype
        np.testing.assert_array_equal(found, array)


def test_each_flipped_bit_of_a_header_is_refused_or_gives_the_same(tmp_path: Path) -> None:
    """Of those that stay readable, most change a name or a number of bytes that the caller compares."""
    array, path = np.arange(5, dtype="<u8").view([("id", "<u4"), ("shard", "<u4")]), tmp_path / "a.npy"
    data = npy(array)
    read = 0
    for place in range(8 * (len(data) - array.nbytes)):
        flipped = bytearray(data)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        with contextlib.suppress(DamagedArray):
            assert mapped(path).nbytes == array.nbytes
            read += 1
    assert read < 200


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '<u8', 'fortran_order': True, 'shape': (1,), }",
        "{'descr': '<u8', 'fortran_order': False, 'shape': (-1,), }",
        "{'descr': '<u8', 'fortran_order': False, 'shape': (99999999999999999,), }",
        "{'descr': '<u9', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': [('a', '<u4'), ('a', '<u4')], 'fortran_order': False, 'shape': (1,), }",
        "__import__('os').abort()",
    ],
)
def test_headers_of_other_arrays_are_refused(tmp_path: Path, header: str) -> None:
    text = header.encode().ljust(117) + b"\n"
    data = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(8)
    (tmp_path / "a.npy").write_bytes(data)
    with pytest.raises(DamagedArray, match="not readable"):
        mapped(tmp_path / "a.npy")
    with pytest.raises(ValueError):
        parse(bytearray(data))


@pytest.mark.parametrize("change", [-1, 1])
def test_a_file_is_as_long_as_its_header_says(tmp_path: Path, change: int) -> None:
    data = npy(np.arange(4))
    (tmp_path / "a.npy").write_bytes(data[:change] if change < 0 else data + b"\0")
    with pytest.raises(DamagedArray, match=r"it has \d+ bytes, not 32 after its header of 128"):
        mapped(tmp_path / "a.npy")


def test_an_archive_is_read_with_its_crc_and_within_bounds(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, arr_0=np.arange(100_000))
    with open_archive(path) as archive:
        found = archive.read("arr_0", most=800_000)
    found[0] = 7  # it can be written to, as what np.load gives
    with pytest.raises(DamagedArray, match="at most 10 are expected"), open_archive(path) as archive:
        archive.read("arr_0", most=10)
    with pytest.raises(DamagedArray, match="KeyError"), open_archive(path) as archive:
        archive.read("labels", most=10)
    data = bytearray(path.read_bytes())
    data[5000] ^= 1
    path.write_bytes(data)
    with pytest.raises(DamagedArray, match="Bad CRC-32"), open_archive(path) as archive:
        archive.read("arr_0", most=800_000)


def test_a_compression_that_numpy_does_not_write_is_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_LZMA) as archive:
        archive.writestr("arr_0.npy", npy(np.arange(3)))
    with pytest.raises(DamagedArray, match="NumPy does not write"), open_archive(tmp_path / "a.npz") as found:
        found.read("arr_0", most=100)
