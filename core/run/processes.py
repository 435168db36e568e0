"""Identify a process so that others on its machine can tell whether it lives; process ids are reused."""

from __future__ import annotations

import functools
import os
from pathlib import Path

from core.files import read_text

_NAMESPACE = "/proc/self/ns/pid"  # containers of one machine may number their processes alike


def started(pid: int) -> str:
    """Return when a process began: the boot, and clock ticks since; '' for a dead one or a zombie."""
    try:
        fields = read_text(Path(f"/proc/{pid}/stat")).rpartition(")")[2].split()
        boot = read_text(Path("/proc/sys/kernel/random/boot_id")).strip()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else f"{boot}:{fields[19]}"


def identity() -> str:
    """Return an identity of this process, for `has_ended`; '' where the system does not tell."""
    return _identity(os.getpid())


@functools.cache
def _identity(pid: int) -> str:
    try:
        namespace = os.readlink(_NAMESPACE)
    except OSError:
        return ""
    return f"{namespace} {pid} {started(pid)}"


def has_ended(other: object) -> bool:
    """Return whether a process with this identity ran on this machine and has ended.

    False where that cannot be seen: on another machine, after another boot, in another container.
    """
    mine, parts = identity().split(" "), str(other).split(" ")
    if len(mine) != 3 or len(parts) != 3 or not (parts[1].isascii() and parts[1].isdigit()):
        return False
    boots = [text.partition(":")[0] for text in (mine[2], parts[2])]
    return mine[0] == parts[0] and boots[0] == boots[1] and started(int(parts[1])) != parts[2]
