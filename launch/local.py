"""Run several ranks of one job on this machine, and end all of them when one fails."""

from __future__ import annotations

import ctypes
import math
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core import environment, terminal
from core.environment import PARENT
from core.errors import CONTINUABLE
from core.root import import_path
from core.run import signals
from core.run.folder import CONFIG
from core.run.last_line import SAID_FILE
from launch.jobs import Job

REFUSED = 2  # status of wrong usage or config
GRACE_S = 5.0  # for the other ranks to end when one has ended early


def do(job: Job, config: Any) -> int:
    """Do a job, on ranks of its own where it wants several and this process is none; return its status."""
    if job.on_ranks and config.processes > 1 and not environment.place().is_rank:
        return run_on_ranks(job, config)
    job.load().run(config)
    return 0


def run_on_ranks(job: Job, config: Any) -> int:
    """Run `job` on `config.processes` local ranks; return 0 if it is complete, else a status as `start`."""
    from core.config.loading import save

    with tempfile.TemporaryDirectory(prefix="longtake-") as folder:
        file = Path(folder) / CONFIG
        save(config, file)
        command = [sys.executable, "-P", "-m", "launch", job.name, str(file)]
        done = Path(config.output) / job.done
        together = getattr(config, "sequence_parallel", 1) > 1
        return start(
            command, config.processes, Path(folder), job.name, done, shares=job.shares, together=together
        )


def start(
    command: Sequence[str],
    processes: int,
    folder: Path,
    name: str,
    done: Path | None = None,
    *,
    shares: bool = False,
    together: bool = False,
) -> int:
    """Start `command` once per rank and wait; the first rank that fails ends the others and gives the status.

    The launcher hosts the store at which the ranks meet, on a port that is its own from the start, so that no
    two runs race for one. Signals are passed on, and wait in a rank until it takes them over or unblocks
    them, so it is not killed by one while it starts. Ranks inherit standard output and error.
    folder: where ranks record which of them failed first.  name: of the run, for the line that says why it
    ended.  done: the file that the run writes last. A run that wrote it gives 0 however a rank ended, and one
    that did not is never called done.  shares: whether ranks share work through a folder, so that one that
    dies ends no other; a refused config is refused for all.  together: whether they compute each sample
    together all the same, so that one that is killed ends the others, which may wait for it.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # not in its __all__

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    ranks, before = _Ranks(), _stamp(done)
    with signals.answered_by(ranks):
        for rank in range(processes):
            ranks.start(command, _environment(rank, processes, store.port, folder))
        code = _wait(ranks.started, name, shares=shares, together=together)
        status = code if code >= 0 else 128 - code  # a signal gives 128 + its number, as in a shell
        return status if done is None else _by_marker(name, status, done, before)


def _by_marker(name: str, status: int, done: Path, before: tuple[int, int] | None) -> int:
    """Return the run's status, by the end marker first: a library may abort in a rank's exit, after all is
    done.
    """
    now = _stamp(done)
    if status == 0 and now is None:
        terminal.tell(f"longtake {name}: all ranks have ended, but {done} is not there")
        return 1
    if status != 0 and now is not None and now != before:
        terminal.tell(f"longtake {name}: complete all the same: {done} was written")
        return 0
    return status


def _stamp(path: Path | None) -> tuple[int, int] | None:
    """Return what tells one version of a file from another that replaced it; None if there is none."""
    try:
        facts = path.stat() if path is not None else None
    except FileNotFoundError:
        return None
    return (facts.st_ino, facts.st_mtime_ns) if facts else None


def follow_parent() -> None:
    """Make this rank die with its launcher, even if the launcher is killed (Linux)."""
    parent = os.environ.get(PARENT)
    if parent is None or sys.platform != "linux":
        return
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL, 0, 0, 0)
    if os.getppid() != int(parent):  # it died before the line above
        os._exit(1)


def _environment(rank: int, processes: int, port: int, folder: Path) -> dict[str, str]:
    """Return a rank's environment: its rendezvous, the path of this code, and the file `SAID_FILE`."""
    started = environment.of_local_rank(rank, processes, port)
    return {**started, "PYTHONPATH": import_path(), SAID_FILE: str(folder / "told")}


class _Ranks:
    """The ranks that have been started; every signal reaches each of them once, through us.

    They have process groups of their own, so that Ctrl-C comes no other way.
    """

    def __init__(self) -> None:
        self.started: list[subprocess.Popen[bytes]] = []
        self._got: list[signal.Signals] = []
        self._lock = threading.Lock()

    def start(self, command: Sequence[str], variables: Mapping[str, str]) -> None:
        """Start one more rank, and pass it the signals that the others received before."""
        with signals.inherited_blocked():
            rank = subprocess.Popen(command, env=variables, process_group=0)
        with self._lock:
            self.started.append(rank)
            for number in self._got:
                rank.send_signal(number)

    def raise_flag(self, number: int) -> None:
        """Do nothing: `note` handles the signal."""

    def note(self, got: signal.Signals) -> None:
        """Pass a signal on."""
        with self._lock:
            self._got.append(got)
            _signal_all(self.started, got)


def _wait(ranks: list[subprocess.Popen[bytes]], name: str, *, shares: bool, together: bool) -> int:
    """Wait for all ranks; the first failure is told and ends the others. Give its code, or 0.

    shares: the others go on, and what one said itself goes before the code of one that was killed.
    together: unless it was killed.
    """
    ended: queue.SimpleQueue[tuple[int, int]] = queue.SimpleQueue()
    for number, rank in enumerate(ranks):
        threading.Thread(target=_report_end, args=(number, rank, ended), daemon=True).start()
    failures, deadline, go_on = list[int](), math.inf, shares
    for _ in ranks:
        left = None if deadline == math.inf else max(0.0, deadline - time.monotonic())
        try:
            number, code = ended.get(timeout=left)
        except queue.Empty:
            _signal_all(ranks, signal.SIGKILL)
            number, code = ended.get()
        if code != 0 and (go_on or not failures):
            if code < 0:  # it could say nothing itself
                ended_by = signal.Signals(-code).name
                terminal.tell(f"longtake {name}: rank {number} was ended by {ended_by}")
            go_on = go_on and code != REFUSED and not (together and code < 0)
            if not go_on and code == CONTINUABLE:  # all ranks have agreed on that, and end by themselves
                deadline = time.monotonic() + GRACE_S
            elif not go_on:  # not SIGTERM: it asks a rank to go on until all is saved, which it cannot alone
                _signal_all(ranks, signal.SIGKILL)
        failures += [code] if code != 0 else []
    return next((code for code in failures if code > 0 and shares), failures[0] if failures else 0)


def _report_end(
    number: int, rank: subprocess.Popen[bytes], ended: queue.SimpleQueue[tuple[int, int]]
) -> None:
    ended.put((number, rank.wait()))


def _signal_all(ranks: list[subprocess.Popen[bytes]], number: int) -> None:
    for rank in ranks:
        rank.send_signal(number)  # nothing happens to one that has ended
