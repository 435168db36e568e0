"""Start several ranks of one program on this machine, for tests that kill them.

Ranks are forked from a process that has imported torch, DeepSpeed, the toy run and the jobs already, which
costs a tenth of an interpreter for each; `start_interpreters` is for what must not be.
"""

from __future__ import annotations

import atexit
import importlib
import os
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Protocol

from core.faults import failpoints
from core.root import ROOT

IMPORTED = ["tests.core.imported"]  # by the process from which ranks are forked
_ALWAYS = {"OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(ROOT)}


def start_interpreters(
    count: int, *arguments: str, environment: Mapping[str, str] | None = None
) -> list[subprocess.Popen[str]]:
    """Run `python ARGUMENTS` once per rank, with the variables of torch's env:// rendezvous."""
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            env={**os.environ, **_ALWAYS, **variables, **(environment or {})},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for variables in _rendezvous(count)
    ]


def start_ranks(
    count: int, *arguments: str, environment: Mapping[str, str] | None = None
) -> list[ForkedRank]:
    """Fork each rank to do what `python ARGUMENTS` would."""
    return [
        _fork(_new_output(), {**variables, **(environment or {})}, _as_main, arguments)
        for variables in _rendezvous(count)
    ]


def run_alone(*arguments: str, environment: Mapping[str, str], timeout_s: float = 300) -> tuple[int, str]:
    """Fork one process, without the variables of a launcher, to do what `python ARGUMENTS` would.

    Return its exit status (negative: the signal) and output.
    """
    (ended,) = finish([_fork(_new_output(), environment, _as_main, arguments)], timeout_s)
    return ended


def _new_output() -> Path:
    descriptor, name = tempfile.mkstemp(prefix="longtake-", suffix=".txt")
    os.close(descriptor)
    atexit.register(Path(name).unlink, missing_ok=True)
    return Path(name)


def _rendezvous(count: int) -> list[dict[str, str]]:
    """Return the environment variables of every rank."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    everyone = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [{**everyone, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]


class Rank(Protocol):
    """The part of `subprocess.Popen` that tests need of a rank's process."""

    def wait(self, timeout: float | None = None) -> int: ...
    def communicate(self, *, timeout: float | None = None) -> tuple[str, str | None]: ...
    def kill(self) -> None: ...


@dataclass(frozen=True)
class ForkedRank:
    """A rank that was forked; its output goes to a file."""

    process: ForkServerProcess
    output: Path

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired(str(self.output), timeout or 0)
        return self.process.exitcode

    def communicate(self, *, timeout: float | None = None) -> tuple[str, str | None]:
        self.wait(timeout)
        return self.output.read_text(errors="replace"), None

    def send_signal(self, number: signal.Signals) -> None:
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        self.process.kill()


def fork_ranks(
    count: int, folder: Path, *words: str, program: str = "tests.core.toy_run"
) -> list[ForkedRank]:
    """Call `start(WORDS)` of a module once per rank; output goes to `folder`, a new one for each call."""
    folder.mkdir(parents=True)
    return [
        _fork(folder / f"rank-{number}.txt", variables, _start_of, (program, *words))
        for number, variables in enumerate(_rendezvous(count))
    ]


def _fork(
    output: Path, variables: Mapping[str, str], run: Callable[[Sequence[str]], None], words: Sequence[str]
) -> ForkedRank:
    context = get_context("forkserver")
    context.set_forkserver_preload(IMPORTED)
    process = context.Process(
        target=_forked, args=(run, {**os.environ, **_ALWAYS, **variables}, output, words)
    )
    process.start()
    return ForkedRank(process, output)


def _forked(
    run: Callable[[Sequence[str]], None], environment: Mapping[str, str], output: Path, words: Sequence[str]
) -> None:
    with open(output, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    failpoints.arm(os.environ.get(failpoints.VARIABLE, ""))  # as at its import
    run(words)


def _start_of(words: Sequence[str]) -> None:
    importlib.import_module(words[0]).start(words[1:])


def _as_main(words: Sequence[str]) -> None:
    """Do what an interpreter does with its words: FILE WORD ..., -c CODE WORD ... or -m MODULE WORD ..."""
    if words[0] == "-c":
        sys.argv = ["-c", *words[2:]]
        exec(compile(words[1], "<string>", "exec"), {"__name__": "__main__"})
    elif words[0] == "-m":
        sys.argv = list(words[1:])
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(words)
        runpy.run_path(words[0], run_name="__main__")


def run_ranks(count: int, *arguments: str) -> list[str]:
    """Wait for all ranks; return what each printed, fail the test when one did not exit with 0."""
    outputs = finish(start_ranks(count, *arguments))
    for code, text in outputs:
        assert code == 0, text
    return [text for _, text in outputs]


def finish(ranks: Sequence[Rank], timeout_s: float = 120) -> list[tuple[int, str]]:
    """Return exit status (negative: the signal) and output of every rank."""
    try:
        return [(rank.wait(timeout_s), rank.communicate(timeout=timeout_s)[0]) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
