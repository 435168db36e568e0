"""Large reads are shared by threads: the same bytes, and no fault is lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import numpy as np
import pytest
import torch

from core.errors import WorkError
from core.reading.shared_work import shared
from data.latent import parts as parts_module
from data.latent.reading import LatentReader
from tests.data.caches import IMAGE, make_cache


@pytest.fixture(params=[1, 2, 4])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_every_piece_is_done_once_whatever_the_number_of_threads(threads: int) -> None:
    for count in (0, 1, 2, 7, 100):
        done: list[int] = []
        by: set[int] = set()

        def work(piece: int, done: list[int] = done, by: set[int] = by) -> None:
            done.append(piece)
            by.add(threading.get_ident())

        shared(range(count), work)
        assert sorted(done) == list(range(count))
        assert threads > 1 or by <= {threading.get_ident()}


def test_an_error_of_any_thread_is_raised_when_all_have_ended(threads: int) -> None:
    for bad in (0, 5, 9):
        done: list[int] = []

        def work(piece: int, bad: int = bad, done: list[int] = done) -> None:
            if piece == bad:
                raise WorkError(f"piece {piece}")
            done.append(piece)

        with pytest.raises(WorkError, match=f"piece {bad}"):
            shared(range(10), work)
        assert len(done) >= 9 - (9 - bad if threads == 1 else 9 // threads)


def test_shared_reads_give_what_mapped_parts_give_and_find_every_damage(
    tmp_path_factory: pytest.TempPathFactory, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = make_cache(tmp_path_factory.mktemp("cache"), [[IMAGE] * 20, [IMAGE] * 20, [IMAGE] * 20])
    monkeypatch.setattr(parts_module, "_READ_BYTES", 1)
    monkeypatch.setattr(parts_module, "PIECE_BYTES", 64)
    rows = np.arange(60)
    reader = LatentReader(cache.folder, cache.manifest, cache.index)
    monkeypatch.setattr(parts_module, "_READ_BYTES", 1 << 30)
    wanted = LatentReader(cache.folder, cache.manifest, cache.index).gather(rows)
    monkeypatch.setattr(parts_module, "_READ_BYTES", 1)
    assert torch.equal(reader.gather(rows), wanted)
    for row in (0, 25, 59):
        entry = cache.index[row]
        path = cache.folder / cache.manifest.shards[entry["shard"]].name
        whole = path.read_bytes()
        at = int(entry["offset"]) + int(entry["size"]) - 2
        path.write_bytes(whole[:at] + np.float16("nan").tobytes() + whole[at + 2 :])
        with pytest.raises(WorkError, match=f"sample {row} is not finite"):
            LatentReader(cache.folder, cache.manifest, cache.index).gather(rows)
        path.write_bytes(whole)
