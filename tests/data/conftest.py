"""A raw dataset behind a URL, and where its copies lie."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from tests.data.raw_datasets import make_raw


@pytest.fixture(scope="module")
def raw_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_raw(tmp_path_factory.mktemp("raw"), images=10, clips=2).folder


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("LONGTAKE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def url(raw_folder: Path, home: Path) -> str:
    """Return the dataset in fsspec's file system in memory."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    for path in raw_folder.iterdir():
        memory.pipe(f"/bucket/data/{path.name}", path.read_bytes())
    return "memory://bucket/data"


def copies(home: Path) -> list[str]:
    return sorted(path.name for path in home.glob("shards/*") if len(path.name) == 64)
