"""Tables that are checked block by block. Run: pytest tests/data/dataset/test_blocks.py"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import WorkError
from data.dataset import blocks
from data.dataset.blocks import Table, block_crcs, open_table
from data.dataset.schema import INDEX_DTYPE

ROWS, BLOCK = 1000, 1 << 12  # 30 bytes a row: rows straddle blocks


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "BLOCK", BLOCK)


@pytest.fixture
def values() -> np.ndarray:
    index = np.zeros(ROWS, INDEX_DTYPE)
    index["id"], index["label"] = np.arange(ROWS), np.arange(ROWS) % 7
    return index


@pytest.fixture
def path(tmp_path: Path, values: np.ndarray) -> Path:
    np.save(tmp_path / "index.npy", values)
    return tmp_path / "index.npy"


def opened(path: Path, crcs: str) -> Table:
    return open_table(path, INDEX_DTYPE, ROWS, crcs, "not readable")


def unchecked(table: Table) -> list[int]:
    assert table.blocks is not None
    return np.flatnonzero(table.blocks.is_unchecked).tolist()


def blocks_of(first: int, last: int) -> set[int]:
    """The blocks of rows `first` to `last`, behind a header of 192 bytes."""
    start = 192
    return set(range((start + 30 * first) // BLOCK, (start + 30 * last + 29) // BLOCK + 1))


def test_hashes_are_those_of_the_file(path: Path) -> None:
    data = path.read_bytes()
    assert len(data) == 192 + 30 * ROWS
    crcs = [f"{zlib.crc32(data[at : at + BLOCK]):08x}" for at in range(0, len(data), BLOCK)]
    assert block_crcs(path) == "".join(crcs)


USES: dict[str, tuple[Callable[[Table], Any], set[int]]] = {
    "a row": (lambda t: t[500], blocks_of(500, 500)),
    "a row across blocks": (lambda t: t[130], blocks_of(130, 130)),
    "a row from the end": (lambda t: t[-1], blocks_of(ROWS - 1, ROWS - 1)),
    "a slice": (lambda t: t[200:600], blocks_of(200, 599)),
    "a slice with steps": (lambda t: t[200:600:150], blocks_of(200, 500)),
    "a slice backwards": (lambda t: t[600:200:-1], blocks_of(201, 600)),
    "no rows": (lambda t: t[5:5], set()),
    "an array": (lambda t: t[np.array([3, 999])], blocks_of(3, 3) | blocks_of(999, 999)),
    "a mask": (lambda t: t[np.arange(ROWS) == 700], blocks_of(700, 700)),
    "taken rows": (lambda t: t.take(np.array([3, 999])), blocks_of(3, 3) | blocks_of(999, 999)),
    "rows of a column": (lambda t: t["label"][400:402], blocks_of(400, 401)),
    "a column alone": (lambda t: t["label"], set()),
    "a comparison": (lambda t: t["label"] == 3, blocks_of(0, ROWS - 1)),
    "all": (lambda t: np.asarray(t), blocks_of(0, ROWS - 1)),
}


@pytest.mark.parametrize("use", USES)
def test_just_the_blocks_that_are_used_are_checked(path: Path, values: np.ndarray, use: str) -> None:
    act, touched = USES[use]
    table = opened(path, block_crcs(path))
    every = blocks_of(0, ROWS - 1)
    assert unchecked(table) == sorted(every)
    found = act(table)
    assert unchecked(table) == sorted(every - touched)
    plain = act(Table(values, None))
    assert np.asarray(found).tolist() == np.asarray(plain).tolist()


def test_damage_is_found_where_it_is_used_and_nowhere_else(path: Path, values: np.ndarray) -> None:
    crcs = block_crcs(path)
    data = bytearray(path.read_bytes())
    data[3 * BLOCK + 10] ^= 1
    path.write_bytes(data)
    table = opened(path, crcs)
    assert table[0] == values[0]
    assert table[ROWS - 1] == values[ROWS - 1]
    for _ in range(2):
        with pytest.raises(
            WorkError, match=rf"index.npy: damaged: bytes {3 * BLOCK} to {4 * BLOCK} are not what .*verify"
        ):
            table.take(np.array([3 * BLOCK // 30]))
    with pytest.raises(WorkError, match="damaged"):
        table.tolist()
    assert opened(path, "")[3 * BLOCK // 30 - 3] is not None  # an earlier version knew no hashes


@pytest.mark.parametrize("size", [0, 5, 100, 192, BLOCK, 192 + 30 * ROWS - 1])
def test_a_table_cut_short_is_refused(path: Path, size: int) -> None:
    crcs = block_crcs(path)
    path.write_bytes(path.read_bytes()[:size])
    for known in (crcs, ""):
        with pytest.raises(WorkError, match=r"index.npy: not readable"):
            opened(path, known)


def test_every_flipped_bit_of_a_header_is_refused_or_changes_nothing(path: Path, values: np.ndarray) -> None:
    """Without hashes too, and in one line: what NumPy raises for it may be anything."""
    whole = path.read_bytes()
    for bit in range(0, 8 * 192, 5):
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        try:
            found = np.asarray(opened(path, ""))
        except WorkError:
            continue
        assert (found == values).all()
