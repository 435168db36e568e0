"""Leases of workers that have died on this machine are free at once; nobody else's are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from core.queue.dead_owners import expire_dead
from core.queue.leases import Leases
from core.root import ROOT
from core.run import processes

CLAIM = """
import os, signal, sys
from pathlib import Path
from core.queue.leases import Leases
Leases(Path(sys.argv[1]), timeout_s=60).claim("u")
os.kill(os.getpid(), signal.SIGKILL)
"""


def claim_and_die(folder: Path) -> Path:
    """Have a process claim `u` and be killed; its lease."""
    done = subprocess.run([sys.executable, "-c", CLAIM, str(folder)], check=False, cwd=ROOT)
    assert done.returncode == -9
    return folder / "u.000000.lease"


def test_the_lease_of_a_killed_worker_expires_at_once_and_counts_as_a_loss(tmp_path: Path) -> None:
    claim_and_die(tmp_path)
    leases = Leases(tmp_path, timeout_s=60)
    assert leases.claim("u") is None
    for _ in range(2):
        expire_dead(leases)
        (state,) = leases.states()
        assert (state.expired, state.losses.workers) == (True, 1)
        assert state.age_s < 120
    lease = leases.claim("u")
    assert lease is not None
    expire_dead(leases)
    assert lease.held()
    assert not leases.states()[0].expired


@pytest.mark.parametrize("part", ["namespace", "boot", "nothing", "no such text"])
def test_a_worker_that_cannot_be_seen_is_not_taken_for_dead(tmp_path: Path, part: str) -> None:
    path = claim_and_die(tmp_path)
    note = json.loads(path.read_text())
    namespace, pid, since = note["process"].split(" ")
    boot, _, ticks = since.partition(":")
    note["process"] = {
        "namespace": f"pid:[7] {pid} {since}",
        "boot": f"{namespace} {pid} other-{boot}:{ticks}",
        "nothing": "",
        "no such text": [1],
    }[part]
    path.write_text(json.dumps(note))
    leases = Leases(tmp_path, timeout_s=60)
    expire_dead(leases)
    assert [state.expired for state in leases.states()] == [False]


def test_a_number_that_is_used_again_is_another_process() -> None:
    mine = processes.identity()
    namespace, pid, since = mine.split(" ")
    boot, _, ticks = since.partition(":")
    assert not processes.has_ended(mine)
    assert processes.has_ended(f"{namespace} {pid} {boot}:{int(ticks) - 1}")
