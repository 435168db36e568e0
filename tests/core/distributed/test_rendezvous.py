"""Tasks of one `srun` find each other by a file. Run: pytest tests/core/distributed/test_rendezvous.py"""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from core.distributed import rendezvous
from core.distributed.rendezvous import meet
from core.environment import Place
from core.errors import UserError, WorkError


@pytest.fixture(autouse=True)
def _task(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0", "SLURM_RESTART_COUNT": "1"}.items():
        monkeypatch.setenv(name, value)
    for name in ("MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLURMD_NODENAME", "node-that-does-not-resolve.invalid")


def places(size: int) -> list[Place]:
    return [Place("srun", number, size, number, size) for number in range(size)]


def all_meet(folder: Path | None, size: int = 3) -> list[str]:
    """Return each rank's reading of what the first rank has written."""
    with ThreadPoolExecutor(size) as pool:
        stores = list(pool.map(lambda place: meet(place, folder, 30), places(size)))
    stores[0].set("word", "hello")
    return [store.get("word").decode() for store in stores]


def test_all_ranks_meet_at_a_port_that_nobody_chose(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run/.meeting-7.0.0").write_text("localhost:1\n")  # of a start that was killed
    assert all_meet(tmp_path / "run") == ["hello"] * 3
    assert [path.name for path in (tmp_path / "run").iterdir()] == [".meeting-7.0.0"]
    assert all_meet(tmp_path / "new/run") == ["hello"] * 3


def test_each_rank_leaves_one_key_and_all_together_two(tmp_path: Path) -> None:
    for size in (2, 4):
        folders = [tmp_path / str(size)] * size
        with ThreadPoolExecutor(size) as pool:
            stores = list(pool.map(meet, places(size), folders, [30] * size))
        met = [*map(str, range(size)), "all", "count"]
        assert sorted(stores[0].list_keys()) == [f"longtake/met/{name}" for name in met]


def test_what_a_person_sets_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))
    assert all_meet(None) == ["hello"] * 3


def test_a_first_rank_that_does_not_come_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "WAIT_S", 0.3)
    with pytest.raises(WorkError) as caught:
        meet(places(2)[1], tmp_path, 30)
    assert str(caught.value) == (
        f"rank 0 has not published its address in {tmp_path}/.meeting-7.1.0 within 0 s: it has not started, "
        "or node-that-does-not-resolve.invalid does not see the same folder"
    )


def test_another_rank_that_does_not_come_is_named(tmp_path: Path) -> None:
    with pytest.raises(WorkError, match="rank 1 of 2 has not come to the rendezvous"):
        meet(places(2)[0], tmp_path, 0.5)


def test_a_first_rank_that_has_gone_is_named(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / ".meeting-7.1.0").write_text(f"127.0.0.1:{port}\n")
    with pytest.raises(WorkError, match=rf"rank 1 cannot reach rank 0 at 127.0.0.1:{port}: "):
        meet(places(2)[1], tmp_path, 1)


def test_a_late_rank_is_waited_for(tmp_path: Path) -> None:
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(lambda: meet(places(2)[0], tmp_path, 30))
        while not (tmp_path / ".meeting-7.1.0").exists():
            assert not first.done()
        meet(places(2)[1], tmp_path, 30)
        assert first.result().get("longtake/met/1") == b"here"


def test_where_nobody_can_publish_the_address_it_has_to_be_given(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="MASTER_ADDR='': expected an address"):
        meet(places(2)[0], None, 30)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="a folder, and this is a file"):
        meet(places(2)[0], tmp_path / "file", 30)
