"""safetensors files: written in one pass, hashing while the bytes go out, and opened for reading.

The format (https://huggingface.co/docs/safetensors): 8 bytes little-endian header length, a JSON header
padded with spaces to a multiple of 8, the tensors' bytes in a row. `safetensors` itself would want a second
pass over the file for its hash; reading is its work.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from queue import SimpleQueue
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


def write_tensors(path: Path, tensors: Mapping[str, Tensor], pace: Pace | None = None) -> FileRecord:
    """Publish CPU `tensors` under `path`; OSError on a full disk, with nothing left behind.

    pace: how fast; None is as fast as the disk.
    """
    hasher = _Hasher(pace)
    size = 0
    try:
        with atomic_file(path) as file:
            # Wide types first, so that every tensor begins at a multiple of its element's size.
            for chunk in _chunks(dict(sorted(tensors.items(), key=lambda item: -item[1].element_size()))):
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


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a file by name; DamagedCheckpoint where it cannot be read."""
    try:
        require_regular(path)
        return load_file(path)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise DamagedCheckpoint(f"{path} cannot be read: {error}") from None


def _chunks(tensors: Mapping[str, Tensor]) -> Iterator[memoryview]:
    header: dict[str, object] = {}
    position = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        shape = list(tensor.shape)
        header[name] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": shape,
            "data_offsets": [position, position + size],
        }
        position += size
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    yield memoryview(len(text).to_bytes(8, "little") + text)
    for tensor in tensors.values():
        failpoint("save.tensor")
        data = memoryview(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        for start in range(0, len(data), CHUNK_BYTES):
            yield data[start : start + CHUNK_BYTES]


class _Hasher:
    """SHA-256 on a thread, so that hashing runs beside the writes (hashlib releases the GIL)."""

    def __init__(self, pace: Pace | None) -> None:
        self._queue: SimpleQueue[memoryview | None] = SimpleQueue()
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
