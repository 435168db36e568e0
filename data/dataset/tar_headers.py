"""Bound the headers of a tar before `tarfile` reads them: it reads as much as they claim, in quadratic time.

A header of a few bytes can claim a name of gigabytes, a chain of headers without end, or a sparse map as long
as the archive; a pax header of 2 MB with a long row of digits takes Python hours.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Callable
from pathlib import Path

from core.files import open_regular
from data.media.unread_kinds import MARKED, mistaken_for

BLOCK = tarfile.BLOCKSIZE
LARGEST = 1 << 16  # bytes of a pax header, of all global ones together, of a long name, and of a sparse map
MOST_IN_ROW = 8  # headers that belong to one member
_PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE)
_EXTENSIONS = (*_PAX, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
_LONG_NUMBER = re.compile(rb"\d{257}")
_RECORD = re.compile(rb"(\d{1,6}) ([^=]+)=")
_COMPRESSIONS = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}

Read = Callable[[int, int], bytes]  # (position, count): the bytes there, fewer at the end


class TarHeaders:
    """Checks the headers of one archive, member by member."""

    def __init__(self, read: Read) -> None:
        self._read = read
        # Bytes and contents of global headers, which `tarfile` copies for each member.
        self._shared, self._shared_fields = 0, dict[bytes, bytes]()

    def require_bounded(self, offset: int) -> None:
        """Raise `tarfile.ReadError` if the headers of the member at `offset` are longer than accepted.

        Headers that are no headers pass: `tarfile` says what is wrong with them.
        """
        fields = dict(self._shared_fields)
        for _ in range(MOST_IN_ROW + 1):
            header = self._read(offset, BLOCK)
            kind = header[156:157]
            if kind not in _EXTENSIONS:
                self._require_sparse_map(header, offset, fields)
                return
            if not _is_header(header):
                return
            size = _number(header[124:136])
            self._shared += size if kind == tarfile.XGLTYPE else 0
            if not 0 <= size <= LARGEST or self._shared > LARGEST:
                raise tarfile.ReadError(f"header of {size} bytes at byte {offset}, at most {LARGEST} is read")
            if kind in _PAX:
                found = _pax_fields(self._read(offset + BLOCK, size), offset)
                fields |= found
                self._shared_fields |= found if kind == tarfile.XGLTYPE else {}
            offset += BLOCK + -(-size // BLOCK) * BLOCK
        raise tarfile.ReadError(f"more than {MOST_IN_ROW} headers in a row before byte {offset}")

    def _require_sparse_map(self, header: bytes, offset: int, fields: dict[bytes, bytes]) -> None:
        """Check the map of a sparse member, which follows its header, up to the longest length accepted."""
        is_long = False
        if header[156:157] == tarfile.GNUTYPE_SPARSE and header[482]:
            blocks = self._read(offset + BLOCK, LARGEST)
            is_long = all(blocks[at] for at in range(504, len(blocks), BLOCK))  # 0 in the last one
        elif fields.get(b"GNU.sparse.major") == b"1":
            numbers = self._read(offset + BLOCK, LARGEST).split(b"\n")
            count = int(numbers[0]) if re.fullmatch(rb"\d{1,6}", numbers[0]) else LARGEST
            is_long = len(numbers) < 2 * count + 2
        if is_long:
            raise tarfile.ReadError(
                f"sparse map at byte {offset + BLOCK} is cut off, or over {LARGEST} bytes"
            )


def _number(field: bytes) -> int:
    """Parse a number of a header as `tarfile` does; `tarfile.HeaderError` if it is not a number."""
    number: int = tarfile.nti(field)  # type: ignore[attr-defined]
    return number


def _is_header(block: bytes) -> bool:
    """Return whether the checksum of a header block is right."""
    try:
        if len(block) < BLOCK:
            return False
        return _number(block[148:156]) in tarfile.calc_chksums(block)  # type: ignore[attr-defined]
    except tarfile.HeaderError:
        return False


def _pax_fields(data: bytes, offset: int) -> dict[bytes, bytes]:
    """Parse the records `LENGTH KEY=VALUE` of a pax header, which must be adjacent (POSIX pax, 2008)."""
    fields: dict[bytes, bytes] = {}
    at = 0
    while at < len(data):
        found = _RECORD.match(data, at)
        end = at + int(found[1]) if found else 0
        if found is None or not found.end() < end <= len(data) or data[end - 1 : end] != b"\n":
            raise tarfile.ReadError(f"pax header at byte {offset} is no row of records")
        fields[found[2]] = data[found.end() : end - 1]
        at = end
    if _LONG_NUMBER.search(data):
        raise tarfile.ReadError(f"pax header at byte {offset} holds a number of more than 256 digits")
    return fields


def compression(path: Path) -> str:
    """Say that a file is compressed, or no tar at all, and what to do; "" if it does not begin so."""
    with open_regular(path) as file:
        head = file.read(MARKED)
    if mistaken := mistaken_for(head):
        return f"no tar but {mistaken}"
    names = [name for mark, name in _COMPRESSIONS.items() if head.startswith(mark)]
    return f"a tar compressed by {names[0]}, which is not read; unpack it" if names else ""
