"""docs/signals.md, row by row, with real jobs. Run: pytest tests/integration/test_signals.py"""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from core.run.signals import INTERRUPTED, SIGNALS, inherited_blocked
from launch import jobs
from launch.endings import CONTINUES, TRAINING
from tests.integration.tiny_run import ROOT, command, finish, start

pytestmark = [pytest.mark.multiprocess]
FIELDS = ("trainer.steps=4000", "metrics.log_every=1")
CONTINUABLE = 75
BEFORE = "ending before the first step; the same command continues the run\n"


def until(process: subprocess.Popen[str], condition: Callable[[], object]) -> None:
    """Wait for what a living process does."""
    while not condition():
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.002)


def launch(words: list[str], **environment: str) -> subprocess.Popen[str]:
    """Start a job as a launcher does: signals wait until it can answer, so that every moment counts."""
    with inherited_blocked():
        return start(words, **environment)


def ended(process: subprocess.Popen[str], *numbers: signal.Signals) -> tuple[int, str]:
    """Signal a job; return its status and output."""
    for number in numbers:
        process.send_signal(number)
    output, _ = process.communicate(timeout=120)
    return process.returncode, output


def at_birth(words: list[str], *numbers: signal.Signals) -> tuple[int, str]:
    return ended(launch(words), *numbers)


def job(name: str, *fields: str) -> list[str]:
    return [*command(Path(), Path())[:3], name, *fields]


def ranks_of(process: subprocess.Popen[str]) -> list[int]:
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    return [int(number) for number in children.read_text().split()]


def has_torch(process: int) -> bool:
    return "libtorch" in Path(f"/proc/{process}/maps").read_text()


def listens(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def before_the_first_step(cache: Path, folder: Path) -> None:
    """Signal jobs at birth, in ranks that import, in a rendezvous that hangs."""
    for number in SIGNALS:
        for name in TRAINING:
            assert at_birth(job(name, "x", "output=y"), number) == (CONTINUABLE, f"{number.name}: {BEFORE}")
    two = launch(command(cache, folder / "two", *FIELDS, "processes=2"))
    until(two, lambda: ranks_of(two) and all(map(has_torch, ranks_of(two))))
    assert ended(two, signal.SIGUSR1) == (CONTINUABLE, f"SIGUSR1: {BEFORE}")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    alone = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    waiting = launch(command(cache, folder / "waiting"), **alone)
    until(waiting, lambda: listens(port))
    status, output = ended(waiting, signal.SIGTERM)
    assert (status, output.endswith(f"SIGTERM: {BEFORE}")) == (CONTINUABLE, True), output


def from_the_first_step_on(cache: Path, folder: Path) -> None:
    run = launch(command(cache, folder / "run", *FIELDS))
    metrics = folder / "run" / "metrics.jsonl"
    until(run, lambda: metrics.exists() and metrics.read_text())
    status, output = ended(run, signal.SIGHUP)
    assert status == CONTINUABLE, output
    assert "ended early on SIGHUP, saved after step" in output.splitlines()[-1]


def second_ctrl_c(cache: Path, folder: Path) -> None:
    run = launch(command(cache, folder / "stuck", *FIELDS), LONGTAKE_FAULT="step.end@step=2:sleep=100")
    metrics = folder / "stuck" / "metrics.jsonl"
    until(run, lambda: metrics.exists() and metrics.read_text())
    assert run.stdout is not None
    run.send_signal(signal.SIGINT)
    while "SIGINT: ending after step" not in run.stdout.readline():
        assert run.poll() is None
    status, output = ended(run, signal.SIGINT)
    assert (status, "SIGINT again: ending at once" in output) == (INTERRUPTED, True), output


def other_jobs_that_continue(cache: Path, folder: Path) -> None:
    for name, text in CONTINUES.items():
        told = f"SIGUSR2: ending; {text}\n"
        assert at_birth(job(name, "x", "output=y"), signal.SIGUSR2) == (CONTINUABLE, told)


def a_sweep(cache: Path, folder: Path) -> None:
    """Signal a sweep at birth; within a run, `test_sweep.py` does (test_a_signal_saves_the_run_under_way)."""
    told = f"SIGTERM: ending; {CONTINUES['sweep']}\n"
    assert at_birth(job("sweep", "x", "output=y"), signal.SIGTERM) == (CONTINUABLE, told)


def jobs_that_do_not(cache: Path, folder: Path) -> None:
    others = [(entry.name,) for entry in jobs.JOBS if entry.name not in {*CONTINUES, *TRAINING}]
    looks = [("train", "--dry-run"), ("sample", "--help"), ("encode", "action=status")]
    for words in (*others, *looks):
        status, output = at_birth(job(words[0], *words[1:]), signal.SIGTERM)
        assert (status, output[:29]) == (128 + signal.SIGTERM, "SIGTERM: ending; nothing of i"), words


def under_nohup(cache: Path, folder: Path) -> None:
    words = ["nohup", *job("train", "x", "output=y")]
    assert at_birth(words, signal.SIGHUP, signal.SIGTERM) == (CONTINUABLE, f"SIGTERM: {BEFORE}")


def once_the_last_line_is_said(cache: Path, folder: Path) -> None:
    """Signal a job that hangs while it ends, on a thread of its own that the interpreter waits for."""
    late = "import sys, threading, time; threading.Thread(target=time.sleep, args=(3,)).start()\n"
    late += "sys.argv[1:] = ['trian']; from launch.cli import main; sys.exit(main())"
    process = launch([command(Path(), Path())[0], "-c", late])
    assert process.stdout is not None
    said = process.stdout.readline()
    ignored = Path(f"/proc/{process.pid}/status")
    until(process, lambda: int(re.findall(r"SigIgn:\s*(\w+)", ignored.read_text())[0], 16) >> 14 & 1)
    assert ended(process, signal.SIGTERM, signal.SIGUSR2) == (2, ""), said


ROWS = {  # how the first two cells of a row begin
    ("`train`, `train-autoencoder` before the first step", "any", "75"): before_the_first_step,
    ("`train`, `train-autoencoder` from the first step on", "any", "75"): from_the_first_step_on,
    ("`train`, `train-autoencoder`, a second Ctrl-C", "SIGINT", "130"): second_ctrl_c,
    ("`shard`, `encode`, `sample`, `evaluate`, `demo`", "any", "75"): other_jobs_that_continue,
    ("`sweep`", "any", "75"): a_sweep,
    ("`export`, `inspect`, `report`, `digits`, `bench`", "any", "128 + number"): jobs_that_do_not,
    ("any job under `nohup`", "SIGHUP", "as without"): under_nohup,
    ("any job whose last line is said", "any but Ctrl-C", "as without"): once_the_last_line_is_said,
}


def test_the_table_has_these_rows() -> None:
    rows = re.findall(r"^\| (.+?) \| (.+?) \| .* \| (.+?) \|$", (ROOT / "docs/signals.md").read_text(), re.M)
    assert [row[1:] for row in rows[1:]] == [row[1:] for row in ROWS]
    assert all(row[0].startswith(told[0]) for row, told in zip(rows[1:], ROWS, strict=True))


@pytest.mark.parametrize(
    "walk",
    [
        pytest.param(walk, marks=[pytest.mark.full] if walk is second_ctrl_c else [], id=walk.__name__)
        for walk in ROWS.values()  # core/test_early_end.py has the second Ctrl-C too, in milliseconds
    ],
)
def test_the_table_holds(cache: Path, tmp_path: Path, walk: Callable[[Path, Path], None]) -> None:
    walk(cache, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("delay_s", [0.1, 0.3, 1.5, 3, 4.5])
def test_any_moment_of_the_start_gives_75_and_the_run_goes_on(
    cache: Path, tmp_path: Path, ranks: int, delay_s: float
) -> None:
    for number in SIGNALS:
        words = command(cache, tmp_path / "run", f"processes={ranks}", "trainer.steps=4000")
        process = launch(words)
        time.sleep(delay_s)  # whatever it is at then
        status, output = ended(process, number)
        assert status == CONTINUABLE, output
        assert "the same command continues the run" in output.splitlines()[-1]
    words = command(cache, tmp_path / "short", f"processes={ranks}", "trainer.steps=3")
    assert at_birth(words, signal.SIGTERM)[0] == CONTINUABLE
    assert finish(words)[0] == 0
