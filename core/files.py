"""Files that are whole or absent: temporary name, fsync, rename (invariant 4)."""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import hashlib
import io
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

TEMPORARY_PREFIX = ".tmp-"
MEETING_PREFIX = ".meeting-"  # where ranks find each other; core/distributed/rendezvous.py
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)  # of storage without hard links


def temporary_name(path: Path) -> Path:
    """Return a sibling of `path` that no reader takes for a published file."""
    return path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(6)}-{path.name}")


def published(folder: Path, pattern: str = "*") -> list[Path]:
    """List what lies in `folder` under names like `pattern`, sorted, without temporary files.

    Whoever lists a folder in which files are written atomically uses this: a temporary name ends like the
    name that it will take, so a plain glob finds it too. Nothing where there is no folder.
    """
    return [folder / name for name in published_names(folder, pattern)]


def published_names(folder: Path, pattern: str = "*") -> list[str]:
    """List the names alone, as `published`: a tenth of the time where there are a hundred thousand."""
    return [name for name in _listed(folder, pattern) if not name.startswith(TEMPORARY_PREFIX)]


def published_below(folder: Path) -> list[Path]:
    """List the files in `folder` and in the folders below it, sorted, without temporary ones."""
    entries = published(folder)
    folders = (entry for entry in entries if entry.is_dir() and not entry.is_symlink())
    below = (path for folder in folders for path in published_below(folder))
    return sorted((*filter(Path.is_file, entries), *below))


def temporaries(folder: Path, name: str = "*") -> list[Path]:
    """List temporary files in `folder`, sorted: those of writers at work, and what killed ones left.

    name: pattern of the names that they were to take.
    """
    return [folder / found for found in _listed(folder, f"{TEMPORARY_PREFIX}*{name}")]


def _listed(folder: Path, pattern: str) -> list[str]:
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(names if pattern == "*" else fnmatch.filter(names, pattern))


def regular(path: str, flags: int) -> int:
    """Open for `open` as its `opener`: OSError for a pipe, device or socket, where a plain open may wait."""
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        _require_regular(os.fstat(descriptor), path)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def open_regular(path: Path) -> io.BufferedReader:
    """Open a regular file for reading bytes; OSError for what is none, at once."""
    return open(path, "rb", opener=regular)


def require_regular(path: Path) -> None:
    """Raise OSError unless a library can open `path` without waiting: for those that take names alone."""
    _require_regular(os.stat(path), str(path))


def _require_regular(status: os.stat_result, path: str) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", path)


def read_bytes(path: Path, most: int | None = None) -> bytes:
    """Read a regular file; OSError for what is none, or has more than `most` bytes, which are not read."""
    with open_regular(path) as file:
        if most is None:
            return file.read()
        size = min(most, os.fstat(file.fileno()).st_size)
        data = file.read(size + 1)  # a buffer of what is asked for is taken at once
        if size < len(data) <= most:  # it has grown, or does not say its size
            data += file.read(most + 1 - len(data))
    if len(data) > most:
        raise OSError(errno.EFBIG, f"larger than {most} bytes, the most for such a file", str(path))
    return data


def read_head(path: Path, most: int) -> bytes:
    """Read the first `most` bytes of a regular file, or all where it has fewer."""
    with open_regular(path) as file:
        return file.read(most)


def read_text(path: Path, most: int | None = None) -> str:
    """Read a regular file of UTF-8 text, its lines ended by "\\n"; errors as in `read_bytes`."""
    return io.TextIOWrapper(io.BytesIO(read_bytes(path, most)), encoding="utf-8").read()


def server_time(folder: Path) -> float:
    """Return the file server's clock, read from the stamp that it gives a file written into `folder`."""
    probe = temporary_name(folder / "clock")
    try:
        probe.write_bytes(b".")
        return probe.stat().st_mtime
    finally:
        probe.unlink(missing_ok=True)


def fsync_folder(folder: Path) -> None:
    """Make renames inside `folder` survive a power loss."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_file(path: Path, mode: str = "wb") -> Iterator[IO[Any]]:
    """Yield a file that appears under `path` only when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = temporary_name(path)
    try:
        # "x": a link may have been placed under a guessed name
        with open(temporary, mode.replace("w", "x"), encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        fsync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that takes the place of `path` only when the block ends without an error."""
    temporary = temporary_name(path)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if path.exists():
            shutil.rmtree(path)
        temporary.rename(path)
        fsync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_text(path: Path, text: str) -> None:
    """Publish `text` under `path`."""
    with atomic_file(path, "w") as file:
        file.write(text)


def write_text_once(path: Path, text: str) -> bool:
    """Publish `text` under `path` unless something is there already; return whether it was published.

    Of processes that do so at once the first one's file stays.
    """
    mine = temporary_name(path)
    try:
        write_text(mine, text)
        try:
            os.link(mine, path)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            return _replace_once(mine, path)
        fsync_folder(path.parent)
        return True
    finally:
        mine.unlink(missing_ok=True)


def _replace_once(mine: Path, path: Path) -> bool:
    """Move a file to where nothing is yet, on storage without hard links; it may be seen empty first."""
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except FileExistsError:
        return False
    os.replace(mine, path)
    fsync_folder(path.parent)
    return True


def write_json(path: Path, value: Any) -> None:
    """Publish `value` as readable JSON with sorted keys, so that equal values give equal bytes."""
    write_text(path, _json_text(value))


def write_json_once(path: Path, value: Any) -> bool:
    """Publish `value` as `write_json` does unless something is there; return whether it was published."""
    return write_text_once(path, _json_text(value))


def _json_text(value: Any) -> str:
    return json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False) + "\n"


def sha256_file(path: Path) -> str:
    """Return the file's SHA-256 as 64 hexadecimal digits."""
    with open_regular(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(value: Any) -> str:
    """Return the SHA-256 of the canonical JSON of `value`: equal content gives equal fingerprints."""
    return hashlib.sha256(canonical(value)).hexdigest()


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return `content` with `sha256` set to the fingerprint of everything else in it."""
    rest = {name: value for name, value in content.items() if name != "sha256"}
    return {**rest, "sha256": fingerprint(rest)}


def canonical(value: Any) -> bytes:
    """Return the JSON of `value` in its one form: sorted keys, no spaces, UTF-8."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode()
