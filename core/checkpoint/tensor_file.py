"""safetensors files: written in one pass, hashing while the bytes go out, and opened for reading.

The format (https://huggingface.co/docs/safetensors): 8 bytes little-endian header length, a JSON header
padded with spaces to a multiple of 8, the tensors' bytes in a row. `safetensors` itself would want a second
pass over the file for its hash; reading is its work.
"""

from __future__ import annotations

import hashlib
import json
import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import Queue
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from core.checkpoint.format import DamagedCheckpoint, FileRecord
from core.checkpoint.pace import Pace
from core.faults.failpoints import failpoint
from core.files import atomic_file, require_regular

CHUNK_BYTES = 1 << 22
WAITING = 8  # chunks that are written and not yet hashed

_NAMES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


@dataclass(frozen=True)
class Entry:
    """A tensor of a file.  read: gives it, on the CPU; it is asked for when its bytes are written."""

    name: str
    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @property
    def numbers(self) -> int:
        return math.prod(self.shape)

    @property
    def size(self) -> int:
        """Size in bytes."""
        return self.numbers * self.dtype.itemsize


def entries_of(tensors: Mapping[str, Tensor]) -> list[Entry]:
    """Return tensors that are there as entries."""
    return [
        Entry(name, tuple(tensor.shape), tensor.dtype, lambda tensor=tensor: tensor)  # type: ignore[misc]
        for name, tensor in tensors.items()
    ]


def write_tensors(path: Path, tensors: Mapping[str, Tensor], pace: Pace | None = None) -> FileRecord:
    """Publish CPU `tensors` under `path`; OSError on a full disk, with nothing left behind.

    pace: how fast; None is as fast as the disk.
    """
    return write_entries(path, entries_of(tensors), pace)


def write_entries(path: Path, entries: Iterable[Entry], pace: Pace | None = None) -> FileRecord:
    """Publish tensors that are read one after the other, as `write_tensors` does: memory is that of two."""
    hasher = _Hasher(pace)
    size = 0
    try:
        with atomic_file(path) as file:
            # Wide types first, so that every tensor begins at a multiple of its element's size.
            for chunk in _chunks(sorted(entries, key=lambda entry: -entry.dtype.itemsize)):
                hasher.put(chunk)
                file.write(chunk)
                size += len(chunk)
                if pace:
                    pace.wrote(file, len(chunk))
            failpoint("save.flush")
    finally:
        digest = hasher.close()
    return FileRecord(size, digest)


def open_tensors(path: Path) -> Any:
    """Map a file, as `safetensors.safe_open` does; DamagedCheckpoint where it cannot be read."""
    try:
        require_regular(path)
        return safe_open(path, "pt")
    except (SafetensorError, OSError) as error:
        raise DamagedCheckpoint(f"{path} cannot be read: {error}") from None


def shape_of(file: Any, key: str) -> list[int] | None:
    """Return the shape of a tensor in a mapped file, None where the file has none of that name."""
    try:
        shape: list[int] = file.get_slice(key).get_shape()
    except SafetensorError:
        return None
    return shape


def read_range(file: Any, key: str, start: int, stop: int) -> Tensor:
    """Return elements [start, stop) of a flattened tensor in a mapped file, 1-D; whole rows are read."""
    rows = file.get_slice(key)
    shape = rows.get_shape()
    if not shape:
        return file.get_tensor(key).view(-1)[start:stop]
    row = max(1, math.prod(shape[1:]))
    first, last = start // row, -(-stop // row)
    return rows[first:last].flatten()[start - first * row : stop - first * row]


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a file by name; DamagedCheckpoint where it cannot be read."""
    try:
        require_regular(path)
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise DamagedCheckpoint(f"{path} cannot be read: {error}") from None


def entries_in(path: Path, names: Mapping[str, str]) -> list[Entry]:
    """Return tensors of a file to be read one after the other.  names: of each key, its name in the entry.

    DamagedCheckpoint where the file cannot be read.
    """
    file, dtypes = open_tensors(path), {name: dtype for dtype, name in _NAMES.items()}
    found = []
    for key, name in names.items():
        part = file.get_slice(key)
        dtype, shape = dtypes[part.get_dtype()], tuple(part.get_shape())
        found.append(Entry(name, shape, dtype, lambda key=key: file.get_tensor(key)))  # type: ignore[misc]
    return found


def _chunks(entries: Iterable[Entry]) -> Iterator[memoryview]:
    header: dict[str, object] = {}
    position, entries = 0, list(entries)
    for entry in entries:
        header[entry.name] = {
            "dtype": _NAMES[entry.dtype],
            "shape": list(entry.shape),
            "data_offsets": [position, position + entry.size],
        }
        position += entry.size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for entry in entries:
        failpoint("save.tensor")
        tensor = entry.read().detach()
        assert (tuple(tensor.shape), tensor.dtype) == (entry.shape, entry.dtype), entry.name
        data = memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        for start in range(0, len(data), CHUNK_BYTES):
            yield data[start : start + CHUNK_BYTES]


class _Hasher:
    """SHA-256 on a thread, so that hashing runs beside the writes (hashlib releases the GIL).

    It is at most `WAITING` chunks behind, so that tensors that are written can go.
    """

    def __init__(self, pace: Pace | None) -> None:
        self._queue: Queue[memoryview | None] = Queue(WAITING)
        self._pace = pace
        self._hash = hashlib.sha256()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def put(self, chunk: memoryview) -> None:
        """Hash `chunk` after what came before; its memory must not change until `close`."""
        self._queue.put(chunk)

    def close(self) -> str:
        """Wait for the rest and return 64 hexadecimal digits."""
        self._queue.put(None)
        self._thread.join()
        return self._hash.hexdigest()

    def _run(self) -> None:
        if self._pace:
            self._pace.yield_processor()
        while (chunk := self._queue.get()) is not None:
            self._hash.update(chunk)
