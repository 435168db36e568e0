"""A size-limited cache of shards on this machine, named by SHA-256 and trusted by that hash alone.

LONGTAKE_CACHE is the folder of the copies (~/.cache/longtake) and LONGTAKE_CACHE_BYTES what shards may take
there (64 GiB); beyond it those unused for the longest time go. Processes share the folder, also over nodes.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from core.errors import UserError, WorkError
from core.files import (
    TEMPORARY_PREFIX,
    fsync_folder,
    published,
    regular,
    sha256_file,
    temporaries,
    temporary_name,
)
from core.progress import say
from core.root import cache_folder
from data.dataset.schema import MANIFEST

LOCKS = 64  # files; two shards that share one are fetched one after the other
Download = Callable[[IO[bytes]], None]


@dataclass(frozen=True)
class ShardCache:
    """Copies of shards in `folder`, named by SHA-256, of at most `limit` bytes together.

    A copy is hashed when this process first opens it; what a disk did to it since it was fetched, or another
    program, is found then. It may be opened again without.
    """

    folder: Path
    limit: int
    _whole: set[tuple[str, int]] = field(
        default_factory=set, init=False, compare=False
    )  # hashed: name, inode

    @classmethod
    def from_environment(cls) -> ShardCache:
        """Create the cache that LONGTAKE_CACHE and LONGTAKE_CACHE_BYTES describe."""
        text = os.environ.get("LONGTAKE_CACHE_BYTES", str(2**36))
        if not re.fullmatch(r"\d+", text):
            raise UserError("LONGTAKE_CACHE_BYTES", text, "a number of bytes")
        return cls(cache_folder() / "shards", int(text))

    def open(self, sha256: str, size: int, name: str, download: Download) -> IO[bytes]:
        """Open the file with this hash for reading; it is downloaded and checked if it is not here yet.

        If several processes ask for it, one downloads and the others wait. The open file stays readable when
        its copy has to make room. A copy that is damaged is fetched anew, with a warning. WorkError, naming
        `name`, if what comes is something else.
        """
        path = self.folder / sha256
        self.folder.mkdir(parents=True, exist_ok=True)
        file = self._copy(path)
        if file is not None and self._is_whole(file, sha256):  # hashed without the lock: others may read
            return file
        with locked(self._lock(sha256)):
            if file is not None:
                self._remove_damaged(path, file, name)
            if (file := self._copy(path)) is not None:  # another process fetched it in between
                if self._is_whole(file, sha256):
                    return file
                self._remove_damaged(path, file, name)
            if size > self.limit:
                raise UserError("LONGTAKE_CACHE_BYTES", self.limit, f"at least {size}, the bytes of {name}")
            return self._fetched(path, sha256, size, name, download)

    def _copy(self, path: Path) -> IO[bytes] | None:
        """Open the copy at `path` and mark it as used now; None if there is none."""
        try:
            file = open(path, "rb", buffering=0, opener=regular)  # noqa: SIM115 (the caller's)
        except FileNotFoundError:
            return None
        os.utime(file.fileno())
        return file

    def _is_whole(self, file: IO[bytes], sha256: str) -> bool:
        key = sha256, os.fstat(file.fileno()).st_ino
        if key in self._whole:
            return True
        found = hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
        file.seek(0)
        if found == sha256:
            self._whole.add(key)
        return found == sha256

    def _remove_damaged(self, path: Path, file: IO[bytes], name: str) -> None:
        """Remove a copy, unless another process has put a new one in its place."""
        with file, contextlib.suppress(FileNotFoundError):
            if os.stat(path).st_ino == os.fstat(file.fileno()).st_ino:
                path.unlink()
                say(f"warning: {path} was damaged since it was copied here; {name} is fetched again")

    def _fetched(self, path: Path, sha256: str, size: int, name: str, download: Download) -> IO[bytes]:
        temporary = temporary_name(path)
        try:
            with open(temporary, "xb") as new:
                download_checked(new, sha256, name, download)
                os.fsync(new.fileno())
            file = open(temporary, "rb", buffering=0, opener=regular)  # noqa: SIM115 (the caller's)
            with locked(self.folder / "lock-room"):  # taken last, so that no cycle of waiting processes forms
                self._make_room(size)
                os.replace(temporary, path)
            fsync_folder(path.parent)
            self._whole.add((sha256, os.fstat(file.fileno()).st_ino))
            return file
        finally:
            temporary.unlink(missing_ok=True)

    def _make_room(self, size: int) -> None:
        """Remove what killed processes left, then the least recently used copies."""
        copies: list[tuple[float, int, Path]] = []
        for entry in (*published(self.folder), *temporaries(self.folder)):
            found = re.fullmatch(
                f"(?:{re.escape(TEMPORARY_PREFIX)}(?:[0-9a-f]{{12}}-)?)?([0-9a-f]{{64}})", entry.name
            )
            if not found:
                continue
            name = found[1]
            with contextlib.suppress(FileNotFoundError):
                if name != entry.name:
                    self._remove_debris(entry, name)
                else:
                    facts = entry.stat()
                    copies.append((facts.st_mtime, facts.st_size, entry))
        total = sum(copy[1] for copy in copies)
        for _, taken, path in sorted(copies):
            if total + size <= self.limit:
                break
            path.unlink(missing_ok=True)
            total -= taken

    def _remove_debris(self, temporary: Path, sha256: str) -> None:
        """Remove unfinished files of killed processes: whoever writes one holds its lock."""
        with contextlib.suppress(BlockingIOError), locked(self._lock(sha256), wait=False):
            temporary.unlink(missing_ok=True)

    def _lock(self, sha256: str) -> Path:
        return self.folder / f"lock-{int(sha256[:4], 16) % LOCKS:02d}"


@contextlib.contextmanager
def locked(path: Path, wait: bool = True) -> Iterator[None]:
    """Hold a lock that ends with the process; BlockingIOError if it is held and `wait` is off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        yield


def download_checked(file: IO[bytes], sha256: str, name: str, download: Download) -> None:
    """Fill `file`; a download with another hash is repeated once, as it may have been damaged on the way."""
    for _ in range(2):
        file.seek(0)
        file.truncate()
        download(file)
        file.flush()
        if sha256_file(Path(file.name)) == sha256:
            return
    raise WorkError(f"{name}: has another SHA-256 than {MANIFEST} says: damaged or replaced")
