"""Files and maps that stay open between reads, within one budget for the whole process.

What is kept open follows the limit of the process (RLIMIT_NOFILE), not the number of datasets. Everything
that reads parts or shards again and again keeps them through `KeptFiles`; the one unused for the longest
time, of any owner, is closed for the next, and opened again when it is asked for.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import resource
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable
from typing import IO, Generic, TypeVar

from core.errors import UserError

T = TypeVar("T")

LEAST_LIMIT = 64  # descriptors of a process, with which every job works on one rank
_OTHERS = 32  # descriptors of logs, locks, sockets and libraries
_MOST_FILES = 4096
_MOST_MAPS = 4096  # a map takes no descriptor; Linux allows 65530 of them (vm.max_map_count)


def raise_limit() -> None:
    """Raise the soft limit of open files to the hard one, where the system lets us."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):  # macOS refuses "unlimited"
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def limit() -> int:
    """Return how many descriptors this process may have; a very large number where there is no limit."""
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    return 2**31 if soft == resource.RLIM_INFINITY else soft


def require_enough() -> None:
    """Raise UserError if the limit is too low for a job, which would fail in the middle of its work."""
    if limit() < LEAST_LIMIT:
        raise UserError("RLIMIT_NOFILE", limit(), f"at least {LEAST_LIMIT} open files (`ulimit -n` sets it)")


def files_budget() -> int:
    """Return how many files may be kept open: half of what the limit leaves to all that opens files."""
    return max(1, min(_MOST_FILES, (limit() - _OTHERS) // 2))


def is_lack_of_descriptors(error: OSError) -> bool:
    """Whether the process (EMFILE) or the machine (ENFILE) has no descriptor left."""
    return error.errno in (errno.EMFILE, errno.ENFILE)


def message_of(error: OSError) -> str:
    """Return file and reason of an error, and the limit if it is the lack of descriptors."""
    said = str(error)
    if error.filename is not None and error.filename2 is None and error.strerror:
        said = f"{os.fsdecode(error.filename)}: {error.strerror}"
    if not is_lack_of_descriptors(error):
        return said
    return f"{said}; this process may have {limit()} (RLIMIT_NOFILE; `ulimit -n` shows and raises it)"


class OpenFile:
    """A file that is closed when nobody holds it any more, so that a thread may read one that has to go."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def fileno(self) -> int:
        """Return its descriptor; valid as long as this object is held."""
        return self._file.fileno()

    def __del__(self) -> None:
        self._file.close()


class Pool:
    """A shared pool: several owners keep at most `most()` things between them."""

    def __init__(self, most: Callable[[], int]) -> None:
        self.most = most
        self.lock = threading.Lock()
        self._owners: weakref.WeakSet[Kept] = weakref.WeakSet()
        self._uses = itertools.count()

    def __len__(self) -> int:
        return sum(len(owner.things) for owner in self._owners)

    def join(self, owner: Kept[T]) -> None:
        """Count what this owner keeps, as long as it lives."""
        with self.lock:
            self._owners.add(owner)

    def use(self) -> int:
        """Return a number larger than at any use before."""
        return next(self._uses)

    def make_room(self) -> None:
        """Let the things unused for the longest time go, until one more fits; the lock is held."""
        while len(self) >= max(1, self.most()):
            owners = (owner for owner in self._owners if owner.things)
            oldest = min(owners, key=lambda owner: next(iter(owner.things.values()))[1])
            oldest.things.popitem(last=False)

    def let_go(self) -> None:
        """Let everything go."""
        with self.lock:
            for owner in self._owners:
                owner.things.clear()


class Kept(Generic[T]):
    """The things of one owner by number, each made when first asked for and kept within the budget of a pool.

    Safe from several threads. What has been let go of lives on as long as someone holds it.
    """

    def __init__(self, pool: Pool) -> None:
        self._pool, self._making = pool, threading.Lock()
        self.things: OrderedDict[int, tuple[T, int]] = OrderedDict()  # and its last use; the oldest first
        pool.join(self)

    def get(self, number: int, make: Callable[[int], T]) -> T:
        """Return the thing with this number, made by `make` if it is not kept.

        Where descriptors are lacking all that is kept is let go of and `make` called once more.
        """
        if (found := self._find(number)) is not None:
            return found
        with self._making:  # not the lock of the pool: a shard may have to be fetched first
            if (found := self._find(number)) is None:
                found = self._add(number, make)
            return found

    def _find(self, number: int) -> T | None:
        with self._pool.lock:
            if number not in self.things:
                return None
            thing = self.things.pop(number)[0]
            self.things[number] = thing, self._pool.use()
            return thing

    def _add(self, number: int, make: Callable[[int], T]) -> T:
        with self._pool.lock:
            self._pool.make_room()
        try:
            thing = make(number)
        except OSError as error:
            if not is_lack_of_descriptors(error):
                raise
            FILES.let_go()  # others of this process have taken more than was left to them
            thing = make(number)
        with self._pool.lock:
            self._pool.make_room()  # others may have come in the time
            self.things[number] = thing, self._pool.use()
        return thing


FILES = Pool(files_budget)
MAPS = Pool(lambda: _MOST_MAPS)


class KeptFiles:
    """Open files of one owner by number, within the budget of the process."""

    def __init__(self) -> None:
        self._kept: Kept[OpenFile] = Kept(FILES)

    def get(self, number: int, make: Callable[[int], IO[bytes]]) -> OpenFile:
        """Return the file with this number, opened by `make` if need be. Hold it while it is read."""
        return self._kept.get(number, lambda number: OpenFile(make(number)))
