"""A checkpoint's note on the length and hash of a record, to check that the file still begins with it.

A CRC-32 can be carried on from its value alone, so a run that continues need not read what it wrote before.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import IO, Any, Self

from core.files import regular
from core.progress import counted
from core.records import BLOCK

CHUNK = 1 << 20  # bytes read at a time


@dataclass(frozen=True)
class Tally:
    """The beginning of a record.

    size: bytes.  crc: CRC-32 of all of them.  last: of the last BLOCK bytes, or of all if fewer.
    """

    size: int = 0
    rows: int = 0
    crc: int = 0
    last: int = 0

    def after(self, data: bytes | memoryview) -> Tally:
        """Return the tally of a record that goes on with `data`; `last` is not carried on."""
        crc = zlib.crc32(data, self.crc)
        return replace(self, size=self.size + len(data), rows=self.rows + bytes(data).count(b"\n"), crc=crc)

    def noted(self) -> dict[str, int]:
        """Return the values for JSON."""
        return asdict(self)

    @classmethod
    def read(cls, noted: Any) -> Self | None:
        """Return the tally that `noted` gave; None of an earlier version, which noted the bytes alone."""
        names = {field.name for field in fields(cls)}
        if not isinstance(noted, Mapping) or noted.keys() != names:
            return None
        return cls(**noted) if all(isinstance(value, int) for value in noted.values()) else None


def carried_on(tally: Tally, file: IO[bytes], stop: int) -> Tally:
    """Return the tally of the first `stop` bytes of a file that begins with this tally's bytes."""
    file.seek(tally.size)
    while tally.size < stop and (data := file.read(min(CHUNK, stop - tally.size))):
        tally = tally.after(data)
    return replace(tally, last=last_block(file, tally.size))


def last_block(file: IO[bytes], stop: int) -> int:
    """Return the CRC-32 of the last BLOCK bytes before `stop`."""
    start = max(0, stop - BLOCK)
    return zlib.crc32(os.pread(file.fileno(), stop - start, start))


def end_differs(path: Path, noted: Tally) -> str:
    """Return how the end of the noted bytes differs in the file; "" where it does not, or is missing."""
    if not path.exists():
        return "it is missing" if noted.size else ""
    with open(path, "rb", opener=regular) as file:
        if (size := os.fstat(file.fileno()).st_size) < noted.size:
            return f"it has {size} bytes, and had {noted.size}"
        if last_block(file, noted.size) != noted.last:
            return f"its bytes {max(0, noted.size - BLOCK)} to {noted.size} are others than were written"
    return ""


def whole_differs(noted: Tally, found: Tally) -> str:
    """Return how a file that was read differs from the noted one; "" where it does not."""
    if (found.size, found.rows, found.crc) == (noted.size, noted.rows, noted.crc):
        return ""
    if found.rows != noted.rows:
        return f"its first {noted.size} bytes hold {counted(found.rows, 'row')}, and held {noted.rows}"
    return f"its first {noted.size} bytes ({counted(noted.rows, 'row')}) are others than were written"
