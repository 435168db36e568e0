"""Storage that fails now and then, or for good. Run: pytest tests/data/dataset/test_retry.py"""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

import pytest
import torch

from core.distributed.ranks import World
from core.errors import WorkError
from data.dataset.index import Dataset
from data.dataset.remote import remote_folder as remote
from data.dataset.retry import Retry
from data.loading.loader import LatentLoader
from data.order.steps import LoaderConfig
from tests.data.caches import IMAGE, make_cache
from tests.data.conftest import copies


class ClientError(Exception):
    """An error as aiohttp raises it, which is no OSError."""


class NoCredentialsError(Exception):
    """An error as botocore raises it."""


class Flaky:
    """A file system of which every third call fails, in the middle of reading too."""

    def __init__(self, system: Any, error: Exception) -> None:
        self._system, self._error, self.calls = system, error, 0

    def ls(self, path: str, detail: bool) -> Any:
        self.fail()
        return self._system.ls(path, detail=detail)

    def open(self, path: str, mode: str) -> IO[bytes]:
        self.fail()
        return FlakyFile(self, self._system.open(path, mode))  # type: ignore[return-value]

    def fail(self) -> None:
        self.calls += 1
        if self.calls % 3 == 1:
            raise self._error


class FlakyFile:
    def __init__(self, owner: Flaky, file: IO[bytes]) -> None:
        self._owner, self._file = owner, file
        self.seek, self.close = file.seek, file.close

    def read(self, size: int) -> bytes:
        self._owner.fail()
        return self._file.read(1000)


@pytest.mark.parametrize("error", [OSError("reset"), TimeoutError(), ClientError("payload")], ids=repr)
def test_storage_that_fails_now_and_then_gives_the_same_batches(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """They come in the same order; what fails goes on where it stopped, after waits that nobody sits out."""
    folder = make_cache(tmp_path / "latents", [[IMAGE] * 9, [IMAGE] * 8, [IMAGE] * 8]).folder
    systems, waits, make = [], [], remote._file_system

    def flaky(url: str) -> tuple[Any, str]:
        system, path = make(url)
        systems.append(Flaky(system, error))
        return systems[-1], path

    monkeypatch.setattr(remote, "_file_system", flaky)
    monkeypatch.setattr(remote, "RETRY", Retry(sleep=waits.append))
    monkeypatch.setitem(sys.modules, "aiohttp", SimpleNamespace(ClientError=ClientError))
    config, world = LoaderConfig(group_size=8), World(0, 1, 0, torch.device("cpu"))
    here, there = (LatentLoader([Dataset(d)], config, world, seed=0) for d in (folder, f"file://{folder}"))
    for step in range(4):
        for a, b in zip(here.load(step), there.load(step), strict=True):
            assert torch.equal(a.id, b.id)
            assert torch.equal(a.x, b.x)
    assert len(waits) == (systems[0].calls + 2) // 3 > 10
    assert len(copies(home)) == 3


def test_storage_that_is_down_ends_the_work_after_growing_waits(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    waits: list[float] = []
    dataset = Dataset(url)
    monkeypatch.setattr(remote, "RETRY", Retry(attempts=5, sleep=waits.append))

    def down(path: str, mode: str) -> IO[bytes]:
        raise ConnectionResetError("reset by peer")

    monkeypatch.setattr(dataset._remote._system, "open", down)  # type: ignore[union-attr]
    shard = "data-000000.tar"
    with pytest.raises(WorkError, match=rf"{shard}: cannot be read, tried 5 times: .*reset by peer"):
        dataset.read(0)
    assert waits == [remote.RETRY.wait_s(f"{url}/{shard}", failed) for failed in (1, 2, 3, 4)]
    assert all(2**n / 2 < wait <= 2**n for n, wait in enumerate(waits))
    assert capsys.readouterr().err.count("once more in") == 4
    with pytest.raises(WorkError, match="cannot be read"):
        list(dataset.audit())  # not called missing


@pytest.mark.parametrize("error", [FileNotFoundError("x"), PermissionError("x"), NoCredentialsError("x")])
def test_what_does_not_pass_by_waiting_is_not_tried_again(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[float] = []
    drivers = SimpleNamespace(BotoCoreError=NoCredentialsError)
    monkeypatch.setitem(sys.modules, "botocore.exceptions", drivers)

    def fails() -> None:
        calls.append(1)
        raise error

    with pytest.raises(type(error)):
        Retry(sleep=calls.append).call("x", fails)
    assert calls == [1]


def test_waits_differ_between_ranks_and_files(monkeypatch: pytest.MonkeyPatch) -> None:
    waits = set()
    for rank in range(8):
        monkeypatch.setenv("RANK", str(rank))
        waits |= {Retry().wait_s(name, 1) for name in ("a", "b")}
    assert len(waits) > 12
