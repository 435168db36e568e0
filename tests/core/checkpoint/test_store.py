"""Run: pytest tests/core/checkpoint/test_store.py"""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from core.checkpoint.store import REMOVED_AT_ONCE, CheckpointStore
from core.errors import WorkError
from core.files import write_json


def publish(store: CheckpointStore, step: int, attempt: str = "local.1", number: int = 1) -> Path:
    path = store.new(step, attempt)
    write_json(path / "manifest.json", {"number": number})
    store.note(path)
    return path


def names(store: CheckpointStore) -> list[str]:
    return [entry.path.name for entry in store.complete()]


def test_newest_step_wins_and_then_the_later_attempt(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    publish(store, 2, "9.0", 1)
    publish(store, 10, "9.0", 1)
    publish(store, 10, "10.0", 2)
    store.new(12, "10.0").mkdir()  # debris: no manifest
    assert names(store) == ["step-00000010.10.0", "step-00000010.9.0", "step-00000002.9.0"]
    assert store.latest() == store.new(10, "10.0")


def test_purge_keeps_the_last_k_and_every_nth(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    for step in range(1, 10):
        publish(store, step)
    store.new(10, "local.1").mkdir()
    (tmp_path / "notes.txt").write_text("not ours")
    store.purge(keep_last=2, keep_every=4)
    steps = [entry.step for entry in store.complete()]
    assert steps == [9, 8, 4]
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith("step-")) == sorted(names(store))
    assert (tmp_path / "notes.txt").exists()


def test_the_last_complete_one_is_never_removed(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    publish(store, 3)
    store.purge(keep_last=0, keep_every=0)
    assert [entry.step for entry in store.complete()] == [3]


def test_a_folder_that_cannot_be_removed_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    store = CheckpointStore(tmp_path)
    publish(store, 1)
    publish(store, 2)

    def refuse(path: Path) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("core.checkpoint.store.shutil.rmtree", refuse)
    store.purge(keep_last=1, keep_every=0)
    assert "could not be removed" in capsys.readouterr().err
    assert [entry.step for entry in store.complete()] == [2]


def test_files_of_a_checkpoint_are_removed_several_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path)
    publish(store, 1)
    publish(store, 2)
    folder = store.complete()[1].path
    for number in range(40):
        (folder / f"rank-{number:05d}.json").touch()
    together, unlink = threading.Barrier(4), Path.unlink
    removed: list[tuple[str, str]] = []

    def met(path: Path, missing_ok: bool = False) -> None:
        if path.name.startswith("rank-0000") and path.name < "rank-00004":
            together.wait(30)  # in which one thread alone would stand
        removed.append((path.name, threading.current_thread().name))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", met)
    store.purge(keep_last=1, keep_every=0)
    assert not folder.exists()
    assert [entry.step for entry in store.complete()] == [2]
    of_ranks = [f"rank-{number:05d}.json" for number in range(40)]
    assert sorted(name for name, _ in removed) == ["manifest.json", *of_ranks]
    assert removed[0] == ("manifest.json", threading.current_thread().name)
    assert len({thread for _, thread in removed[1:]}) in range(4, REMOVED_AT_ONCE + 1)


def test_nothing_was_ever_published(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoints")
    assert store.latest() is None
    store.new(5, "local.1").mkdir(parents=True)  # a first save that was killed
    assert store.latest() is None


def test_lost_checkpoints_are_an_error_and_not_a_fresh_start(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path)
    (publish(store, 5) / "manifest.json").unlink()
    with pytest.raises(WorkError, match="none is complete now"):
        store.latest()
