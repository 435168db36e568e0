"""Start several ranks of one program on this machine, for tests that kill them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]


def start_ranks(
    count: int, *arguments: str, environment: Mapping[str, str] | None = None
) -> list[subprocess.Popen[str]]:
    """Run `python ARGUMENTS` once per rank, with the variables of torch's env:// rendezvous."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    base = {**os.environ, "OMP_NUM_THREADS": "1", "DS_ACCELERATOR": "cpu", "PYTHONPATH": str(ROOT)}
    base |= {
        "WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        **(environment or {}),
    }
    return [
        subprocess.Popen(
            [sys.executable, *arguments],
            env={**base, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(count)
    ]


def run_ranks(count: int, *arguments: str, environment: Mapping[str, str] | None = None) -> list[str]:
    """Wait for all ranks; returns what each printed, fails the test when one did not exit with 0."""
    outputs = finish(start_ranks(count, *arguments, environment=environment))
    for code, text in outputs:
        assert code == 0, text
    return [text for _, text in outputs]


def finish(ranks: list[subprocess.Popen[str]], timeout_s: float = 120) -> list[tuple[int, str]]:
    """Exit status (negative: the signal) and output of every rank."""
    try:
        return [(rank.wait(timeout_s), rank.communicate(timeout=timeout_s)[0]) for rank in ranks]
    finally:
        for rank in ranks:
            rank.kill()
