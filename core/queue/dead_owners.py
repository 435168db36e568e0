"""Leases of workers that have died on this machine, which nobody need wait for."""

from __future__ import annotations

import contextlib
import os

from core.files import regular
from core.queue.leases import Leases, lease_path, read_note
from core.run.processes import has_ended


def expire_dead(leases: Leases) -> None:
    """Let the leases of workers that ran on this machine and have ended expire now, not after the timeout.

    Only their stamps change: whose they are is decided as ever, by who takes them over first.
    """
    for unit, generation in leases.newest().items():
        with contextlib.suppress(FileNotFoundError, PermissionError):  # given back since, or another user's
            if not leases.state(unit, generation).expired:
                _expire(leases, unit, generation)


def _expire(leases: Leases, unit: str, generation: int) -> None:
    path = lease_path(leases.folder, unit, generation)
    with open(path, "rb", opener=regular) as file:  # its stamp is set through the file that was read
        if has_ended(read_note(file.read().decode("utf-8", "replace")).get("process")):
            facts = os.fstat(file.fileno())
            os.utime(file.fileno(), (facts.st_atime, facts.st_mtime - leases.timeout_s - 1))
