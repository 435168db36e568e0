"""Leases on units of work, for processes on several nodes that share a folder and nothing else.

A unit of work is claimed by creating its lease file exclusively. Its holder touches the file; the file
server stamps the time, so that workers' clocks need not agree. A lease without a sign of life for longer
than the timeout is taken over by creating the file of the next generation, again exclusively, so that
exactly one worker wins; nothing is ever renamed or removed under another worker. A holder that slept
through its own take-over may run a unit a second time: harmless, as long as equal inputs publish equal
bytes. After a claim, look whether the unit was finished meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from core import environment
from core.faults.failpoints import failpoint

SUFFIX = ".lease"


@dataclass(frozen=True)
class LeaseState:
    """A unit's newest lease as a bystander sees it: owner, and seconds since its last sign of life."""

    unit: str
    generation: int
    owner: str
    age_s: float
    expired: bool


class Leases:
    """Leases in `folder`; one that shows no sign of life for `timeout_s` seconds may be taken over."""

    def __init__(self, folder: Path, *, timeout_s: float, owner: str | None = None) -> None:
        self.folder, self.timeout_s = folder, timeout_s
        self.owner = owner or f"{environment.node()}:{os.getpid()}"
        self.token = secrets.token_hex(8)
        folder.mkdir(parents=True, exist_ok=True)

    def claim(self, unit: str) -> Lease | None:
        """Take `unit`, or None while somebody alive holds it; OSError where the folder cannot be written."""
        newest = self._newest(unit)
        if newest is not None and not newest.expired:
            return None
        generation = newest.generation + 1 if newest else 0
        path = lease_path(self.folder, unit, generation)
        try:
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            return None  # another worker was faster
        try:
            os.write(descriptor, json.dumps({"owner": self.owner, "token": self.token}).encode())
            failpoint("lease.written")
        except BaseException:
            path.unlink(missing_ok=True)  # a full disk must not leave a lease that nobody holds
            raise
        finally:
            os.close(descriptor)
        return Lease(self.folder, unit, generation, self.token)

    def states(self) -> list[LeaseState]:
        """The newest lease of every unit that has one, sorted by unit."""
        units = sorted({path.name.rsplit(".", 2)[0] for path in self.folder.glob(f"*{SUFFIX}")})
        return [state for unit in units if (state := self._newest(unit)) is not None]

    def server_time(self) -> float:
        """The file server's clock, read from the stamp it gives a file of ours."""
        probe = self.folder / f".clock-{self.token}"
        try:
            probe.write_bytes(b".")
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)

    def _newest(self, unit: str) -> LeaseState | None:
        while (generations := list_generations(self.folder, unit)) and (generation := max(generations)) >= 0:
            with contextlib.suppress(FileNotFoundError):  # released while we looked: look again
                return self._state(unit, generation)
        return None

    def _state(self, unit: str, generation: int) -> LeaseState:
        with open(
            lease_path(self.folder, unit, generation), encoding="utf-8"
        ) as file:  # NFS refreshes on open
            stamp, text = os.fstat(file.fileno()).st_mtime, file.read()
        age = self.server_time() - stamp
        owner = str(json.loads(text)["owner"]) if text else "unknown"  # its holder is still writing it
        return LeaseState(unit, generation, owner, age, age > self.timeout_s)


class Lease:
    """A claimed unit: `kept_alive()` shows signs of life while the work runs, `release()` gives it back."""

    def __init__(self, folder: Path, unit: str, generation: int, token: str) -> None:
        self.folder, self.unit, self.generation, self.token = folder, unit, generation, token
        self.path = lease_path(folder, unit, generation)

    def held(self) -> bool:
        """Whether this worker still holds the unit (it may have been taken over while it slept)."""
        generations = list_generations(self.folder, self.unit)
        if self.generation not in generations or self.generation != max(generations):
            return False
        try:
            return bool(json.loads(self.path.read_text())["token"] == self.token)
        except FileNotFoundError:
            return False

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
        """Give the unit back, and clear the expired leases before it; nothing when it was taken over."""
        if self.held():
            for generation in sorted(list_generations(self.folder, self.unit)):
                if generation <= self.generation:
                    lease_path(self.folder, self.unit, generation).unlink(missing_ok=True)

    @contextlib.contextmanager
    def kept_alive(self, every_s: float) -> Iterator[None]:
        """Touch the lease every `every_s` seconds from a thread, and release it at the end."""
        stop = threading.Event()

        def beat() -> None:
            while not stop.wait(every_s):
                with contextlib.suppress(OSError):  # of a file server for a moment; the next may pass
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
    """Where the lease of one generation lies."""
    return folder / f"{unit}.{generation:06d}{SUFFIX}"


def list_generations(folder: Path, unit: str) -> set[int]:
    """The generations of a unit that have a lease file."""
    paths = folder.glob(f"{unit}.??????{SUFFIX}")
    return {int(path.name.removesuffix(SUFFIX).rsplit(".", 1)[1]) for path in paths}
