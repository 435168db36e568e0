"""Do the runs of a sweep that are missing, each a `longtake train` of its own.

Processes that share an output share its runs (`core.queue`): one that dies loses its lease, and another
continues its run from the last checkpoint. A signal goes to the run under way, which saves; then
the sweep ends.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from core import environment, terminal
from core.config.loading import save
from core.errors import CONTINUABLE, EndedEarly, WorkError
from core.progress import counted, say
from core.queue.config import QueueConfig
from core.queue.leases import LeaseState
from core.queue.work_queue import WorkQueue
from core.root import import_path
from core.run import ends, signals
from core.run.folder import RUNS
from core.run.last_line import SAID_FILE
from launch.child_jobs import start_child
from tools.sweep import ledger
from tools.sweep.outcome import outcome
from tools.sweep.resolving import SweepRun

LEASES = "leases"  # in the output of a sweep
# Variables of a supervisor for its ranks, of which a run of a sweep is none.
OURS = (ends.FOLDER, SAID_FILE, environment.PREFLIGHT)


def work(output: Path, runs: Sequence[SweepRun], config: QueueConfig, *, retry: bool) -> None:
    """Do runs until each is done, has failed, or is at another process and ends there.

    retry: those that have failed count as missing.  WorkError names those that could not be run at all.
    """
    by_name = {run.name: run for run in runs}
    missing = {name for name, row in ledger.results(output).items() if retry and row["state"] == "failed"}
    child = _Child()

    def settled() -> set[str]:
        return set(ledger.results(output)) - missing

    def do(name: str) -> None:
        number = list(by_name).index(name) + 1
        say(f"run {number} of {len(runs)}: {name}")
        child.train(by_name[name], f"{number}/{len(runs)} {name}", output)
        missing.discard(name)

    def wait(states: list[LeaseState]) -> None:
        child.require_going_on(output)

    queue = WorkQueue(output / LEASES, list(by_name), config, list_done=settled)
    queue.forget_failures()
    queue.forget_losses()
    with signals.answered_by(child):
        queue.work(do, wait)
    if failures := [each for each in queue.failures() if each.final and each.unit not in settled()]:
        named = "; ".join(f"{each.unit}: {each.errors[-1]}" for each in failures)
        raise WorkError(f"{counted(len(failures), 'run')} could not be run: {named}")


class _Child:
    """The run under way. It gets the signals that this process gets, and answers them."""

    def __init__(self) -> None:
        self._got: list[signal.Signals] = []
        self._process: subprocess.Popen[str] | None = None

    def raise_flag(self, number: int) -> None:
        """Do nothing: `note` handles the signal."""

    def note(self, got: signal.Signals) -> None:
        """Pass a signal on."""
        self._got.append(got)
        process = self._process
        if process is not None and process.poll() is None:
            process.send_signal(got)

    def require_going_on(self, output: Path) -> None:
        """Raise EndedEarly if this process was asked to end."""
        if self._got:
            raise EndedEarly(
                f"{output}: ended early on {self._got[0].name}; the same command continues the sweep"
            )

    def train(self, run: SweepRun, label: str, output: Path) -> None:
        """Do a run, and add it to the ledger; EndedEarly where it is to be continued."""
        self.require_going_on(output)
        file = output / RUNS / f"{run.name}.yaml"
        save(run.config, file)
        status, last = self._wait([sys.executable, "-P", "-m", "launch", "train", str(file)], label, file)
        if status == CONTINUABLE:
            self.require_going_on(output)
            raise EndedEarly(
                f"{output}: {run.name} ended early: {last}; the same command continues the sweep"
            )
        if status < 0:
            last = f"ended by {signal.Signals(-status).name}"
        row = outcome(run, status, last)
        ledger.add(output, row)
        loss = row["losses"].get("raw")
        came_to = row["state"] if loss is None else f"{row['state']}, loss {loss:.4f}"
        say(f"{run.name}: {came_to}{_because(row['reason'])}")

    def _wait(self, words: Sequence[str], label: str, file: Path) -> tuple[int, str]:
        """Run a command to its end; return its status and last line.  All that it prints is kept, too."""
        alone = environment.without_launcher(os.environ)
        variables = {name: value for name, value in alone.items() if name not in OURS}
        variables |= {"PYTHONPATH": import_path(), environment.PARENT: str(os.getpid())}
        with signals.inherited_blocked():
            self._process = process = start_child(words, variables, own_group=True)
            for got in self._got:  # those that came before it was there
                process.send_signal(got)
        last = ""
        assert process.stdout is not None
        with open(file.with_suffix(".log"), "a", encoding="utf-8") as log:
            for line in process.stdout:
                with contextlib.suppress(OSError):  # a full disk: the run's own files are the record
                    log.write(line)
                    log.flush()
                last = line.strip() or last
                terminal.tell(f"    {label}: {line.rstrip()}")
        return process.wait(), last


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""
