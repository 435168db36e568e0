"""Read tars by offset, with an audit: what a streaming reader would silently drop is an error here.

Streaming readers (also `webdataset`'s) take a damaged or missing header for the end of the archive, so a
shard cut between two members, or with a hole in it, reads as a shorter one. Here an archive must end in two
empty blocks, and nothing but empty blocks may follow them.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any, NamedTuple

from core.errors import WorkError
from core.files import open_regular
from data.dataset.tar_headers import BLOCK, Read, TarHeaders, compression

APART = "its members do not lie side by side (tar --sort=name writes them so)"


class Member(NamedTuple):
    """A regular file in a tar: name, offset of its first header, offset and size of its content, in bytes."""

    name: str
    header: int
    content: int
    size: int
    refused: str = ""

    @property
    def end(self) -> int:
        """The offset of the next member's header."""
        return self.content + -(-self.size // BLOCK) * BLOCK


@dataclass
class TarSample:
    """Adjacent members with one key; `refused` says why the sample must not be used ("" if it may)."""

    key: str
    members: dict[str, Member] = field(default_factory=dict)
    refused: str = ""

    @property
    def offset(self) -> int:
        """Offset of the start of the sample's range of bytes: the header of its first member."""
        return min(member.header for member in self.members.values())

    @property
    def end(self) -> int:
        """Offset of the end of the sample's range of bytes."""
        return max(member.end for member in self.members.values())


def split_name(name: str) -> tuple[str, str]:
    """Split `a/b.seg.png` into (`a/b`, `seg.png`), as webdataset groups members.

    Without a dot there is no suffix.
    """
    folder, slash, base = name.rpartition("/")
    stem, _, suffix = base.partition(".")
    if not stem and not slash:  # webdataset skips hidden files, but only at the top
        return base, ""
    return folder + slash + stem, suffix.lower()


def members(path: Path) -> Iterator[Member]:
    """Yield every member of an uncompressed tar except folders, in order.

    `refused` names links, devices, sparse files and names that lead out of a folder.
    WorkError if the archive is damaged anywhere: nothing is dropped in silence.
    """
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            reader = _Headers(file, lambda at, count: read_range(file.fileno(), count, at))
            for info in reader:
                if info.offset_data + info.size > size and not info.issparse():
                    raise tarfile.ReadError(f"unexpected end of data within {info.name!r}")
                if not info.isdir():
                    yield Member(info.name, info.offset, info.offset_data, info.size, _refusal(info))
    except _DAMAGE as error:
        kind = compression(path)
        raise WorkError(f"{path}: {kind or 'damaged tar'}: {error}") from None
    _check_end(path, reader.end)


# The latter three are what `tarfile` meets in headers that contradict themselves.
_DAMAGE = (tarfile.TarError, ValueError, EOFError, IndexError, OverflowError)


class _Headers:
    """Iterates over the members of an archive, each header bounded first. end: behind the last one."""

    def __init__(self, file: IO[bytes], read: Read) -> None:
        self._file, self._bounds, self.end = file, TarHeaders(read), 0

    def __iter__(self) -> Iterator[tarfile.TarInfo]:
        self._bounds.require_bounded(0)
        with tarfile.open(fileobj=self._file, mode="r:") as tar:
            while (info := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # tarfile keeps them all
                if info.size < 0:
                    raise tarfile.ReadError(f"member {info.name!r} has a negative size")
                yield info
                self.end = tar.offset
                self._bounds.require_bounded(self.end)


def _refusal(info: tarfile.TarInfo) -> str:
    if not info.isreg() or info.issparse():
        return "member is a link, device or sparse file"
    parts = PurePosixPath(info.name).parts
    if info.name.startswith("/") or ".." in parts:
        return "member's name leads out of its folder"
    return ""


def _check_end(path: Path, end: int) -> None:
    size = path.stat().st_size
    if size < end + 2 * BLOCK:
        raise WorkError(f"{path}: truncated tar: no end marker at byte {end} of {size}")
    with open_regular(path) as file:
        file.seek(end)
        while block := file.read(1 << 20):
            if block.count(0) != len(block):
                raise WorkError(f"{path}: damaged tar: bad header at byte {end} of {size}, data follows it")


def samples(path: Path, passed_over: Callable[[str], bool] = lambda name: False) -> Iterator[TarSample]:
    """Yield the members of a tar grouped by key. WorkError if the tar is damaged.

    passed_over: tells by its name of a member that belongs to no sample, as if it were not there.
    A sample is refused if a member is, or is there twice, or lies apart from the others of its key.
    """
    current: TarSample | None = None
    seen: set[str] = set()
    for member in members(path):
        if passed_over(member.name):
            continue
        key, suffix = split_name(member.name)
        if current is None or key != current.key:
            if current is not None:
                yield current
            current = TarSample(key, refused=APART if key in seen else "")
            seen.add(key)
        if suffix in current.members:
            current.refused = current.refused or f"member {suffix!r} is there twice"
            suffix = f"{suffix}#{member.header}"
        current.members[suffix] = member
        current.refused = current.refused or member.refused
    if current is not None:
        yield current


def arrays(sample: TarSample) -> list[Member]:
    """Return the members of a sample that are arrays by their suffix (`npy`, `latent.npy`)."""
    return [member for suffix, member in sample.members.items() if suffix.rpartition(".")[2] == "npy"]


def read_range(file: int, size: int, offset: int) -> bytes:
    """Read `size` bytes at `offset` of an open descriptor, fewer only at the end of the file.

    One system call gives 2 GiB at most.
    """
    data = os.pread(file, size, offset)
    while len(data) < size and (more := os.pread(file, size - len(data), offset + len(data))):
        data += more
    return data


def read_into(file: int, buffer: memoryview, offset: int) -> int:
    """Fill `buffer` (bytes) from `offset` of an open descriptor on; fewer bytes only at the end of the file.

    Return their number.
    """
    done = os.preadv(file, [buffer], offset)
    while done < len(buffer) and (more := os.preadv(file, [buffer[done:]], offset + done)):
        done += more
    return done


def read_member(file: int, path: Path, member: Member) -> bytes:
    """Read the content of a member by its offset, from the open descriptor `file`.

    WorkError if it is cut off.
    """
    data = read_range(file, member.size, member.content)
    if len(data) != member.size:
        raise WorkError(f"{path}: truncated: {member.name!r} ends at byte {member.end}")
    return data


def parse_sample(data: bytes) -> tuple[str, dict[str, bytes]]:
    """Parse the bytes of a sample into its key and {suffix: content}; ValueError if it is incomplete."""
    contents: dict[str, bytes] = {}
    keys = set()
    end = 0
    try:
        for info in _Headers(io.BytesIO(data), lambda at, count: data[at : at + count]):
            key, suffix = split_name(info.name)
            end = info.offset_data + -(-info.size // BLOCK) * BLOCK
            if not info.isreg() or suffix in contents or end > len(data):
                raise ValueError(f"bad member {info.name!r}")
            contents[suffix] = data[info.offset_data : info.offset_data + info.size]
            keys.add(key)
    except _DAMAGE as error:
        raise ValueError(str(error)) from None
    if end != len(data) or len(keys) != 1:
        raise ValueError(f"members of {len(keys)} samples in {end} of {len(data)} bytes")
    return keys.pop(), contents


class MemberFile(io.RawIOBase):
    """A member of a tar as a file to read and seek in: `size` bytes of `file` from `offset` on."""

    def __init__(self, file: IO[bytes], offset: int, size: int) -> None:
        self._file, self._offset, self._size, self._at = file, offset, size, 0

    def readable(self) -> bool:
        """Return True: the member can be read."""
        return True

    def seekable(self) -> bool:
        """Return True: the member can be sought in."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill `buffer` from the present position, as far as the member goes."""
        count = max(0, min(len(buffer), self._size - self._at))
        data = os.pread(self._file.fileno(), count, self._offset + self._at)
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position in the member."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        self._at = max(0, start + offset)
        return self._at
