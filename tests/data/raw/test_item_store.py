"""The items of a listing, kept in few bytes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from core.root import import_path
from data.raw.ingest import list_source
from data.raw.item_store import ItemStore, Selection
from tests.data.raw.sources import PNG, place


def test_a_store_gives_back_what_it_took(tmp_path: Path) -> None:
    place(
        tmp_path,
        {f"c{k % 3}/{k:03d}.png": PNG for k in range(300)}
        | {f"c{k % 3}/{k:03d}.txt": "é" * k for k in range(300)},
    )
    items = list_source(tmp_path).items
    assert isinstance(items, ItemStore)
    plain = list(items)
    assert [items[k] for k in (299, 0, 128, 127, -1)] == [plain[k] for k in (299, 0, 128, 127, -1)]
    some = Selection(items, [5, 200, 3])
    assert list(some) == [plain[5], plain[200], plain[3]]
    assert list(some[1:]) == [plain[200], plain[3]]
    assert list(some.sizes()) == [item.packed for item in some]
    with pytest.raises(IndexError):
        items[300]


MEASURE = """
import gc, sys, tracemalloc
from pathlib import Path
from data.raw.ingest import list_source

list_source(Path(sys.argv[1]))  # what is loaded and grown once stays outside
tracemalloc.start()
listing = list_source(Path(sys.argv[1]))
gc.collect()
print(len(listing.items), tracemalloc.get_traced_memory()[0])
"""


def test_a_row_of_a_large_table_takes_few_bytes(tmp_path: Path) -> None:
    """Measured in a process of its own, where nothing but the listing is kept; 40 bytes at 200,000 rows."""
    rows = "".join(f"im/{k:06d}.png,a caption of {k % 97} words that is number {k}\n" for k in range(4_000))
    place(tmp_path, {"t.csv": "path,text\n" + rows})
    words = [sys.executable, "-c", MEASURE, str(tmp_path / "t.csv")]
    done = subprocess.run(
        words,
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": import_path()},
    )
    samples, kept = map(int, done.stdout.split())
    assert samples == 4_000
    assert kept < 100 * samples
