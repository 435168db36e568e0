"""Who may write into a run folder: one living process at a time; a newer attempt fences off an older one."""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

from core import environment
from core.errors import WorkError
from core.files import write_json
from core.reading import json_files
from core.reading.json_files import Malformed
from core.reading.json_schema import Count
from core.run.code import Code, CodeRecord, code, read
from core.run.folder import LOCK

UNKNOWN = ""  # which launcher began a run


class Owner(TypedDict):
    """What `run.lock` says.  started: when the process began, "" once it has ended."""

    begun_by: NotRequired[str | None]
    host: str
    pid: int
    started: str
    attempt: str
    number: Count
    token: str
    code: NotRequired[CodeRecord]


@dataclass(frozen=True)
class Attempt:
    """One start of a run.  name: `JOB.RESTART`, part of checkpoint names.  number: of this start, from 1.

    code: what the first rank runs.
    """

    name: str
    number: int
    token: str
    code: Code


class RunLock:
    """The file `run.lock` of a run folder; only rank 0 handles it."""

    def __init__(self, folder: Path) -> None:
        self._folder, self.path = folder, folder / LOCK

    def acquire(self) -> Attempt:
        """Take the run over; WorkError while a process on this node that owns it is alive.

        An owner on another node cannot be seen; it is fenced off instead, since it finds at its next commit
        that the run has a newer attempt. So is an earlier start of the same SLURM job that still lives.
        """
        self.require_free()
        before = self._read()
        number = (before["number"] if before else 0) + 1
        name = environment.attempt() or f"local.{number}"
        self.attempt = Attempt(name, number, secrets.token_hex(8), code())
        owner: Owner = {
            "begun_by": before.get("begun_by") if before else environment.launch() or UNKNOWN,
            "host": environment.node(),
            "pid": os.getpid(),
            "started": _started(os.getpid()),
            "attempt": name,
            "number": number,
            "token": self.attempt.token,
            "code": self.attempt.code.as_dict(),
        }
        write_json(self.path, owner)
        return self.attempt

    def code(self) -> Code | None:
        """What the last start of the run ran; None where that is not recorded."""
        owner = self._read()
        return read(owner.get("code")) if owner else None

    def begun_by_another(self) -> bool:
        """Whether the run was begun by another launch than this one; False where that is not known."""
        owner = self._read()
        begun_by = owner.get("begun_by") if owner else None
        return begun_by is not None and environment.launch() not in (None, begun_by)

    def require_free(self) -> None:
        """WorkError while a process on this node that owns the run lives, and no earlier start of our job."""
        owner, job = self._read(), environment.slurm_job()
        if not owner or (job and owner["attempt"] != environment.attempt() and _job_of(owner) == job):
            return
        if owner["host"] == environment.node() and _alive(owner["pid"], owner["started"]):
            raise WorkError(f"{self._folder} is being written by process {owner['pid']} on this host")

    def check(self) -> None:
        """WorkError unless this process still owns the run."""
        now = self._read()
        if now is None or now["token"] != self.attempt.token:
            newer = (
                f"attempt {now['attempt']} (process {now['pid']} on {now['host']})"
                if now
                else "somebody else"
            )
            raise WorkError(f"{self._folder} was taken over by {newer}; this attempt writes nothing more")

    def release(self) -> None:
        """Say that the owner has ended; the count of attempts stays."""
        now = self._read()
        if now is not None and now["token"] == self.attempt.token:
            write_json(self.path, {**now, "pid": 0, "started": ""})

    def _read(self) -> Owner | None:
        try:
            return json_files.read(self.path, Owner)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except Malformed as error:
            raise Malformed(f"{error}; where no process writes into the folder, remove this file") from None


def _job_of(owner: Owner) -> str:
    return owner["attempt"].rpartition(".")[0]


def _alive(pid: int, started: str) -> bool:
    return pid > 0 and pid != os.getpid() and bool(started) and _started(pid) == started


def _started(pid: int) -> str:
    """When a process began: the boot, and clock ticks since; '' for a dead one or a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else f"{boot}:{fields[19]}"
