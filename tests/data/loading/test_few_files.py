"""Mixtures of many parts under few descriptors: the same bytes, and no part opened more often than needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from core.reading.open_files import FILES
from core.root import ROOT
from data.dataset.index import Dataset
from data.latent.reading import LatentReader
from tests.data.caches import IMAGE, make_cache
from tests.data.loading.few_files_run import digest_of

LARGE = (1, 3, 1, 152, 152)  # 135 KiB a sample, read by system calls, not through maps


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Nine caches of 20 parts, of a size that is mapped and one that is read."""
    root = tmp_path_factory.mktemp("caches")
    paths = [root / str(number) for number in range(9)]
    for path in paths:
        make_cache(path, [[IMAGE] * 3 + [LARGE] for _ in range(20)])
    return paths


def test_a_mixture_gives_the_same_bytes_under_64_descriptors(folders: list[Path]) -> None:
    command = [sys.executable, "-m", "tests.data.loading.few_files_run", "64", "60", *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    digest, most = json.loads(done.stdout)
    assert digest == digest_of(folders, 60)[0]
    assert most <= 48  # the rest is for whatever else opens files


@pytest.mark.parametrize("most", [1, 4, 1000])
def test_parts_read_in_order_are_opened_once(
    folders: list[Path], monkeypatch: pytest.MonkeyPatch, most: int
) -> None:
    FILES.let_go()
    monkeypatch.setattr(FILES, "most", lambda: most)
    cache, opened = Dataset(folders[0]), []

    def open_part(number: int):
        opened.append(number)
        return cache.open_shard(number)

    reader = LatentReader(cache.folder, cache.manifest, cache.index, open_part)
    rows = np.flatnonzero(np.asarray(cache.index)["size"] == 2 * np.prod(LARGE))
    batches = [reader.gather(some) for some in np.array_split(rows, 7)]
    assert opened == list(range(20))
    assert torch.equal(torch.cat(batches), reader.gather(rows))
    assert opened == list(range(20)) * (2 if most < 20 else 1)
