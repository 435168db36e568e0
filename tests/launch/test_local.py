"""Local ranks: they meet, they end together, and one of them speaks for all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from core.environment import PARENT
from core.root import ROOT
from core.run.signals import SIGNALS
from launch import local
from tests.core import toy_run


def start(
    folder: Path,
    script: str,
    *arguments: str,
    processes: int = 2,
    shares: bool = False,
    together: bool = False,
) -> int:
    command = [sys.executable, "-c", script, *arguments]
    return local.start(command, processes, folder, "job", shares=shares, together=together)


@pytest.mark.multiprocess
def test_ranks_meet_at_the_store_of_the_launcher(tmp_path: Path) -> None:
    script = """
import os, sys, torch, torch.distributed as dist
from core.run.ending import end_with

def main():
    dist.init_process_group("gloo")
    total = torch.tensor([10.0 ** dist.get_rank()])
    dist.all_reduce(total)
    with open(f"{sys.argv[1]}/result-{os.environ['LOCAL_RANK']}", "w") as file:
        file.write(f"{total.item()} of {dist.get_world_size()}")
    dist.destroy_process_group()

end_with(main)
"""
    assert start(tmp_path, script, str(tmp_path)) == 0
    assert [(tmp_path / f"result-{rank}").read_text() for rank in range(2)] == ["11.0 of 2"] * 2


def test_environment_of_a_rank(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    environment = local._environment(1, 3, 1234, tmp_path)
    assert environment["OMP_NUM_THREADS"] == "2"
    assert (environment["RANK"], environment["LOCAL_RANK"]) == ("1", "1")
    assert (environment["WORLD_SIZE"], environment["LOCAL_WORLD_SIZE"]) == ("3", "3")
    assert (environment["MASTER_ADDR"], environment["MASTER_PORT"]) == ("127.0.0.1", "1234")
    assert local._environment(1, 16, 1234, tmp_path)["OMP_NUM_THREADS"] == "1"
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    assert local._environment(1, 3, 1234, tmp_path)["OMP_NUM_THREADS"] == "5"


@pytest.mark.multiprocess
def test_first_failing_rank_ends_the_others_and_speaks_for_all(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script = """
import os, sys, time
from core.run.last_line import tell
if os.environ["RANK"] == "0":
    time.sleep(100)
tell("longtake job: x=1: expected 2")
sys.exit(2)
"""
    begin = time.monotonic()
    assert start(tmp_path, script, processes=3) == 2
    assert time.monotonic() - begin < 60
    assert capfd.readouterr().err == "longtake job: x=1: expected 2\n"


@pytest.mark.multiprocess
@pytest.mark.parametrize("death", ["kill", "error"])
def test_a_rank_that_dies_brings_down_one_that_waits_for_it_within_10_s(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], death: str
) -> None:
    """And what ended it is told before anything that the others say about it."""
    script = """
import os, pathlib, signal, sys, time, torch, torch.distributed as dist
from core.run.ending import end_with
from core.run.last_line import tell

def main():
    dist.init_process_group("gloo")
    rank, ended, death = dist.get_rank(), pathlib.Path(sys.argv[1], "ended"), sys.argv[2]
    dist.all_reduce(torch.ones(1))
    if rank == 1:
        ended.write_text(str(time.monotonic()))
        if death == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        tell("longtake job: the disk is on fire")
        return 1
    try:
        dist.all_reduce(torch.ones(1))
    except RuntimeError:
        tell("longtake job: rank 1 has gone")
    time.sleep(100)

end_with(main)
"""
    code = start(tmp_path, script, str(tmp_path), death)
    assert time.monotonic() - float((tmp_path / "ended").read_text()) < 10
    said = capfd.readouterr().err
    if death == "kill":
        assert code == 128 + signal.SIGKILL
        assert "longtake job: rank 1 was ended by SIGKILL\n" in said
    else:
        assert code == 1
        assert said.startswith("longtake job: the disk is on fire\n")
        assert "rank 1 has gone" not in said


@pytest.mark.multiprocess
def test_after_an_early_end_the_others_end_by_themselves_or_are_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(local, "GRACE_S", 2.0)
    script = """
import os, pathlib, sys, time
folder, rank = pathlib.Path(sys.argv[1]), os.environ["RANK"]
if rank == "0":
    while not (folder / "ready").exists():
        time.sleep(0.01)
    sys.exit(75)
(folder / "ready").touch()
if rank == "1":
    time.sleep(0.5)
    (folder / "saved").touch()
    sys.exit(75)
time.sleep(100)
"""
    begin = time.monotonic()
    assert start(tmp_path, script, str(tmp_path), processes=3) == 75
    assert time.monotonic() - begin < 60
    assert (tmp_path / "saved").exists()
    assert capfd.readouterr().err == ""


@pytest.mark.multiprocess
@pytest.mark.parametrize("number", SIGNALS)
def test_signals_are_passed_on_to_every_rank_once(tmp_path: Path, number: signal.Signals) -> None:
    script = """
import os, pathlib, signal, sys, time
folder, number, rank = pathlib.Path(sys.argv[1]), int(sys.argv[2]), os.environ["RANK"]
def note(*_):
    with open(folder / f"got-{rank}", "a") as file:
        file.write("x")
signal.signal(number, note)
signal.pthread_sigmask(signal.SIG_UNBLOCK, [number])
(folder / f"ready-{rank}").touch()
if rank == "0":
    while not (folder / "ready-1").exists():
        time.sleep(0.01)
    os.kill(os.getppid(), number)
while len(list(folder.glob("got-*"))) < 2:
    time.sleep(0.01)
"""
    given = signal.signal(number, signal.default_int_handler)  # under nohup it is ignored, and would stay so
    try:
        assert start(tmp_path, script, str(tmp_path), str(int(number))) == 0
        assert signal.getsignal(number) is signal.default_int_handler
    finally:
        signal.signal(number, given)
    assert [(tmp_path / f"got-{rank}").read_text() for rank in range(2)] == ["x", "x"]


@pytest.mark.multiprocess
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a child with its parent")
def test_ranks_die_with_a_launcher_that_is_killed(tmp_path: Path) -> None:
    rank = """
import os, time
from launch.local import follow_parent
follow_parent()
os.write(1, b"up\\n")  # at once, which print does not do where PYTHONUNBUFFERED is set
time.sleep(100)
"""
    launcher = f"""
import sys, pathlib
from core.environment import PARENT
from core.run.signals import SIGNALS
from launch import local
from tests.core import toy_run
local.start([sys.executable, "-c", {rank!r}], 2, pathlib.Path({str(tmp_path)!r}), "job")
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, "-c", launcher], stdout=subprocess.PIPE, env=environment
    ) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == [b"up\n", b"up\n"]
        process.kill()
        assert process.stdout.read() == b""  # the end of the pipe: nobody holds it any more


def test_a_rank_whose_launcher_has_gone_ends_at_once() -> None:
    code = "from launch.local import follow_parent; follow_parent(); print('lives on')"
    environment = {**os.environ, PARENT: "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (1, b"")


TRAIN = toy_run.__file__


def test_an_abort_after_the_end_marker_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """The end marker that the run wrote decides; before it, the same abort is a failure."""
    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    done = tmp_path / "finished.json"

    def train(*fault: str) -> int:
        command = [sys.executable, TRAIN, f"--run={tmp_path}", "steps=3", *fault]
        return local.start(command, 1, tmp_path, "job", done)

    assert train("fault=step.end@rank=0,step=3:abort") == 128 + signal.SIGABRT
    assert not done.exists()
    assert train("fault=run.finished@rank=0:abort") == 0
    said = capfd.readouterr().err
    assert said.count("rank 0 was ended by SIGABRT") == 2
    assert said.count(f"complete all the same: {done} was written") == 1
    assert json.loads(done.read_text())["step"] == 3


@pytest.mark.parametrize(
    ("script", "marker", "status"),
    [
        pytest.param("pass", "absent", 1, id="ended-without"),
        pytest.param("pass", "before", 0, id="finished-before"),
        pytest.param("sys.exit(3)", "before", 3, id="failed-beside-an-older-one"),
        pytest.param("mark(); sys.exit(3)", "before", 0, id="failed-after-a-new-one"),
        pytest.param("mark()", "absent", 0, id="done"),
    ],
)
def test_exit_status_is_not_the_sign_of_success(
    tmp_path: Path, script: str, marker: str, status: int, capfd: pytest.CaptureFixture[str]
) -> None:
    done = tmp_path / "done.json"
    if marker == "before":
        done.write_text("{}")
    begin = f"""
import os, sys
def mark():
    open({str(done)!r} + ".new", "w").close()
    os.replace({str(done)!r} + ".new", {str(done)!r})
"""
    assert local.start([sys.executable, "-c", begin + script], 1, tmp_path, "job", done) == status
    said = capfd.readouterr().err
    assert ("done.json is not there" in said) == (marker == "absent" and script == "pass")
    assert ("complete all the same" in said) == ("mark(); sys.exit" in script)


ONE_FAILS = """
import os, signal, sys, time
from pathlib import Path
from core.run.last_line import tell
folder, status = Path(sys.argv[1]), int(sys.argv[2])
if os.environ["RANK"] == "0":
    while not (folder / "ended").exists():
        time.sleep(0.01)
    if status == 2:
        time.sleep(100)
    (folder / "done").touch()
    sys.exit(int(sys.argv[3]))
(folder / "ended").touch()
if status < 0:
    os.kill(os.getpid(), -status)
tell("longtake job: it failed")
sys.exit(status)
"""


@pytest.mark.multiprocess
@pytest.mark.parametrize(
    ("status", "others", "expected"), [(1, 0, 1), (-9, 0, 137), (-9, 75, 75), (75, 0, 75), (2, 0, 2)]
)
def test_ranks_that_share_work_outlive_one_another_but_a_refused_config(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], status: int, others: int, expected: int
) -> None:
    assert start(tmp_path, ONE_FAILS, str(tmp_path), str(status), str(others), shares=True) == expected
    assert (tmp_path / "done").exists() == (status != 2)
    said = capfd.readouterr().err
    assert said == (
        "longtake job: rank 1 was ended by SIGKILL\n" if status < 0 else "longtake job: it failed\n"
    )


@pytest.mark.multiprocess
def test_a_rank_that_is_killed_ends_those_that_compute_with_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script = """
import os, signal, time
if os.environ["RANK"] == "0":
    time.sleep(100)  # as in a collective
os.kill(os.getpid(), signal.SIGKILL)
"""
    assert start(tmp_path, script, shares=True, together=True) == 137
    assert "rank 1 was ended by SIGKILL" in capfd.readouterr().err
