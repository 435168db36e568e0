"""Leases on units of work, for processes on several nodes that share a folder and nothing else.

A unit of work is claimed by creating its lease file exclusively. Its holder touches the file; the file
server stamps the time, so that workers' clocks need not agree. A lease without a sign of life for longer
than the timeout is taken over by creating the file of the next generation, again exclusively, so that
exactly one worker wins; nothing is ever renamed or removed under another worker. A holder that slept
through its own take-over may run a unit a second time: harmless, as long as equal inputs publish equal
bytes. After a claim, check whether the unit was finished in between.

A lease names its holder and says whether that one had finished other units, and how many holders before it
were lost. Losses count from one start of the command to the next, whose mark a lease carries.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import environment
from core.faults.failpoints import failpoint
from core.files import published, read_head, regular, server_time, write_text
from core.reading import json_files
from core.run.processes import identity

SUFFIX = ".lease"
LARGEST = 1 << 16  # bytes that are read of a lease: a hundred times what we write
START = "start"  # the mark of the last start of the command
_NAME = re.compile(rf"(.+)\.(\d{{6}}){re.escape(SUFFIX)}")


@dataclass(frozen=True)
class Losses:
    """Workers that were lost at a unit, one after the other, since the command was last started.

    proven: of them, those that had finished other units, so it was hardly their own fault.
    """

    workers: int = 0
    proven: int = 0


@dataclass(frozen=True)
class LeaseState:
    """A unit's newest lease as other workers see it: owner, and seconds since its last sign of life.

    losses: with this owner once the lease has expired.
    """

    unit: str
    generation: int
    owner: str
    age_s: float
    expired: bool
    losses: Losses = Losses()


class Leases:
    """Leases in `folder`; one that shows no sign of life for `timeout_s` seconds may be taken over.

    finished: how many units this worker has finished, which its leases record.
    """

    def __init__(self, folder: Path, *, timeout_s: float, owner: str | None = None) -> None:
        self.folder, self.timeout_s = folder, timeout_s
        self.owner = owner or f"{environment.node()}:{os.getpid()}"
        self.token = secrets.token_hex(8)
        self.finished = 0
        self._server_ahead_s: float | None = None  # of this process's monotonic clock, by the last listing
        folder.mkdir(parents=True, exist_ok=True)
        self._start = self._read_start()

    def claim(self, unit: str, newest: int | None = None) -> Lease | None:
        """Take `unit`, or None while another worker holds it; OSError where the folder cannot be written.

        newest: its newest lease by an earlier listing, -1 for none; None is returned if it has changed since.
        """
        if newest is None:
            newest = self.newest().get(unit, -1)
        losses = Losses()
        if newest >= 0:
            self._start = self._read_start()  # all losses may have been forgotten by now
            try:
                state = self.state(unit, newest)
            except FileNotFoundError:
                return None  # given back since
            if not state.expired:
                return None
            losses = state.losses
        try:
            return self._create(unit, newest + 1, losses)
        except FileExistsError:
            return None  # another worker was faster

    def newest(self) -> dict[str, int]:
        """Return the generation of the newest lease of every unit that has one, by one listing."""
        self._server_ahead_s, self._start = None, self._read_start()
        found: dict[str, int] = {}
        for path in published(self.folder, f"*{SUFFIX}"):
            if match := _NAME.fullmatch(path.name):
                found[match[1]] = max(int(match[2]), found.get(match[1], -1))
        return found

    def states(self) -> list[LeaseState]:
        """Return the newest lease of every unit that has one, sorted by unit."""
        found = []
        for unit, generation in sorted(self.newest().items()):
            with contextlib.suppress(FileNotFoundError):  # given back since
                found.append(self.state(unit, generation))
        return found

    def state(self, unit: str, generation: int) -> LeaseState:
        """Return one lease; FileNotFoundError if it is there no more."""
        path = lease_path(self.folder, unit, generation)
        with open(path, encoding="utf-8", errors="replace", opener=regular) as file:  # NFS refreshes on open
            stamp, note = os.fstat(file.fileno()).st_mtime, read_note(file.read(LARGEST))
        age = self._server_now() - stamp
        expired, losses = age > self.timeout_s, Losses()
        if note.get("start", "") == self._start:
            lost = _count(note, "lost") + expired
            losses = Losses(lost, _count(note, "proven") + (expired and _count(note, "finished") > 0))
        return LeaseState(unit, generation, str(note.get("owner", "unknown")), age, expired, losses)

    def forget_losses(self) -> None:
        """Count lost workers anew from here on, for all workers."""
        write_text(self.folder / START, secrets.token_hex(8))

    def server_time(self) -> float:
        """Return the file server's clock."""
        return server_time(self.folder)

    def _server_now(self) -> float:
        """Return the file server's clock, from ours and their difference, measured once a listing."""
        if self._server_ahead_s is None:
            self._server_ahead_s = self.server_time() - time.monotonic()
        return self._server_ahead_s + time.monotonic()

    def _read_start(self) -> str:
        try:
            return read_head(self.folder / START, LARGEST).decode("utf-8", "replace")
        except FileNotFoundError:
            return ""

    def _create(self, unit: str, generation: int, losses: Losses) -> Lease:
        path = lease_path(self.folder, unit, generation)
        note = {"owner": self.owner, "token": self.token, "start": self._start, "finished": self.finished}
        note |= {"lost": losses.workers, "proven": losses.proven, "process": identity()}
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        try:
            os.write(descriptor, json.dumps(note).encode())
            failpoint("lease.written")
        except BaseException:
            path.unlink(missing_ok=True)  # a full disk must not leave a lease without a holder
            raise
        finally:
            os.close(descriptor)
        return Lease(self.folder, unit, generation, self.token, losses)


class Lease:
    """A claimed unit: `kept_alive()` shows signs of life while the work runs, `release()` gives it back.

    losses: of the workers before, at this unit.
    """

    def __init__(self, folder: Path, unit: str, generation: int, token: str, losses: Losses) -> None:
        self.folder, self.unit, self.generation, self.token = folder, unit, generation, token
        self.losses = losses
        self.path = lease_path(folder, unit, generation)

    def held(self) -> bool:
        """Return whether this worker still holds the unit (it may have been taken over while it slept)."""
        if lease_path(self.folder, self.unit, self.generation + 1).exists():
            return False
        try:
            text = read_head(self.path, LARGEST).decode("utf-8", "replace")
        except FileNotFoundError:
            return False
        return bool(read_note(text).get("token") == self.token)

    def touch(self) -> bool:
        """Show a sign of life; False when the lease is no longer ours."""
        if not self.held():
            return False
        try:
            os.utime(self.path)
        except FileNotFoundError:
            return False
        return True

    def release(self) -> None:
        """Give the unit back, and remove the expired leases before it; do nothing if it was taken over.

        The newest goes first, so that until the last is gone other workers find an expired one to take over.
        """
        if self.held():
            for generation in range(self.generation, -1, -1):
                lease_path(self.folder, self.unit, generation).unlink(missing_ok=True)

    @contextlib.contextmanager
    def kept_alive(self, every_s: float) -> Iterator[None]:
        """Touch the lease every `every_s` seconds from a thread, and release it at the end."""
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(every_s):
                with contextlib.suppress(OSError):  # the server may fail for a moment; the next may pass
                    if not self.touch():
                        return

        thread = threading.Thread(target=beat, name=f"lease {self.unit}", daemon=True)
        thread.start()
        try:
            yield
        finally:
            stop.set()
            thread.join()
            self.release()


def lease_path(folder: Path, unit: str, generation: int) -> Path:
    """Return the path of the lease of one generation."""
    return folder / f"{unit}.{generation:06d}{SUFFIX}"


def read_note(text: str) -> dict[str, Any]:
    """Return what a lease says; nothing where its holder is still writing it, or was killed at that."""
    try:
        note = json_files.loaded(text.encode(), "lease")
    except json_files.Malformed:
        return {}
    return note if isinstance(note, dict) else {}


def _count(note: dict[str, Any], name: str) -> int:
    """Return a number of a lease; 0 in those of earlier versions."""
    value = note.get(name)
    return value if type(value) is int and value > 0 else 0
