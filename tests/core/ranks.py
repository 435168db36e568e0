"""Start several ranks of one program on this machine, for tests that kill them.

`start_ranks` starts interpreters, which import everything; `fork_ranks` forks the ranks of toy runs from a
process that has imported already, which costs a tenth.
"""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Protocol

from core.root import ROOT


def start_ranks(
    count: int, *arguments: str, environment: Mapping[str, str] | None = None
) -> list[subprocess.Popen[str]]:
    """Run `python ARGUMENTS` once per rank, with the variables of torch's env:// rendezvous."""
    base = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(ROOT)}
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            env={**base, **variables, **(environment or {})},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for variables in _rendezvous(count)
    ]


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

    def wait(self, timeout: float | None = None) -> int:
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired(str(self.output), timeout or 0)
        return self.process.exitcode

    def communicate(self, *, timeout: float | None = None) -> tuple[str, str | None]:
        self.wait(timeout)
        return self.output.read_text(errors="replace"), None

    def kill(self) -> None:
        self.process.kill()


def fork_ranks(
    count: int, folder: Path, *words: str, program: str = "tests.core.toy_run"
) -> list[ForkedRank]:
    """Call `start(WORDS)` of a module once per rank; output goes to `folder`, a new one for each call."""
    context = get_context("forkserver")
    context.set_forkserver_preload(["tests.core.toy_run"])
    folder.mkdir(parents=True)
    ranks = []
    for number, variables in enumerate(_rendezvous(count)):
        output = folder / f"rank-{number}.txt"
        ranks.append(
            ForkedRank(context.Process(target=_forked, args=(program, variables, output, words)), output)
        )
        ranks[-1].process.start()
    return ranks


def _forked(program: str, variables: Mapping[str, str], output: Path, words: Sequence[str]) -> None:
    with open(output, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.update({**variables, "DS_ACCELERATOR": "cpu"})
    importlib.import_module(program).start(words)


def run_ranks(count: int, *arguments: str, environment: Mapping[str, str] | None = None) -> list[str]:
    """Wait for all ranks; return what each printed, fail the test when one did not exit with 0."""
    outputs = finish(start_ranks(count, *arguments, environment=environment))
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
