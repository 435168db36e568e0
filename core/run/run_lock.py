"""The lock of a run folder: one living process writes at a time; a newer attempt fences off an older one."""

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
from core.reading.json_scalars import Count
from core.run.code import Code, CodeRecord, code, read
from core.run.folder import LOCK
from core.run.processes import started

UNKNOWN = ""  # no launcher is known to have begun the run


class Owner(TypedDict):
    """The content of `run.lock`.  started: when the process began, "" once it has ended."""

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

    code: the version that the first rank runs.
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
            "started": started(os.getpid()),
            "attempt": name,
            "number": number,
            "token": self.attempt.token,
            "code": self.attempt.code.as_dict(),
        }
        write_json(self.path, owner)
        return self.attempt

    def code(self) -> Code | None:
        """Return the code version of the run's last start; None where that is not recorded."""
        owner = self._read()
        return read(owner.get("code")) if owner else None

    def begun_by_another(self) -> bool:
        """Return whether another launch than this one began the run; False where that is not known."""
        owner = self._read()
        begun_by = owner.get("begun_by") if owner else None
        return begun_by is not None and environment.launch() not in (None, begun_by)

    def require_free(self) -> None:
        """Raise WorkError while a process on this node owns the run, unless an earlier start of our job."""
        owner, job = self._read(), environment.slurm_job()
        if not owner or (job and owner["attempt"] != environment.attempt() and _job_of(owner) == job):
            return
        if owner["host"] == environment.node() and _alive(owner["pid"], owner["started"]):
            raise WorkError(f"{self._folder} is being written by process {owner['pid']} on this host")

    def check(self) -> None:
        """Raise WorkError unless this process still owns the run."""
        now = self._read()
        if now is None or now["token"] != self.attempt.token:
            newer = (
                f"attempt {now['attempt']} (process {now['pid']} on {now['host']})"
                if now
                else "another process"
            )
            raise WorkError(f"{self._folder} was taken over by {newer}; this attempt writes nothing more")

    def release(self) -> None:
        """Record that the owner has ended; the count of attempts stays."""
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


def _alive(pid: int, since: str) -> bool:
    return pid > 0 and pid != os.getpid() and bool(since) and started(pid) == since
