"""The shards of a dataset as columns, which are used like the records that they stand for."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, overload

import numpy as np

from core.files import sha256_file
from core.reading.json_scalars import U32, Count, FileName

_HASH = re.compile(r"[0-9a-f]{64}")
COLUMNS = np.dtype([("name_end", "<u8"), ("samples", "<u4"), ("bytes", "<u8"), ("sha256", "V32")])


@dataclass(frozen=True, kw_only=True)
class ShardRecord:
    """One tar of a dataset: file name, number of samples, length in bytes, SHA-256."""

    name: FileName
    samples: U32
    bytes: Count
    sha256: str

    @classmethod
    def of(cls, path: Path, samples: int) -> Self:
        """Describe a tar that exists; reads all of it to hash it."""
        return cls(name=path.name, samples=samples, bytes=path.stat().st_size, sha256=sha256_file(path))


class ShardTable(Sequence[ShardRecord]):
    """Records of shards in two arrays, mapped or not; a record is made when it is asked for.

    columns: (shards,) of `arrays_of`.  names: (bytes,) uint8, the names one after another in UTF-8.
    ValueError where the two do not fit each other.
    """

    def __init__(self, columns: np.ndarray, names: np.ndarray) -> None:
        if columns.dtype != COLUMNS or columns.ndim != 1 or names.dtype != np.uint8 or names.ndim != 1:
            raise ValueError("they are no columns of shards")
        ends = columns["name_end"]
        last = int(ends[-1]) if len(ends) else 0
        if last != len(names) or (ends[1:] <= ends[:-1]).any() or (names == ord("/")).any():
            raise ValueError("its names are not as long as it says, or none of files")
        self._columns, self._names = columns, names

    @property
    def samples(self) -> np.ndarray:
        """Samples of each shard, (shards,) int64."""
        return self._columns["samples"].astype(np.int64)

    @property
    def bytes(self) -> np.ndarray:
        """Length of each shard, (shards,) int64."""
        return self._columns["bytes"].astype(np.int64)

    def names(self) -> list[str]:
        """Return the name of each shard."""
        text, ends = self._names.tobytes(), self._columns["name_end"].tolist()
        return [text[a:b].decode() for a, b in zip([0, *ends], ends, strict=False)]

    def __len__(self) -> int:
        return len(self._columns)

    @overload
    def __getitem__(self, key: int) -> ShardRecord: ...

    @overload
    def __getitem__(self, key: slice) -> tuple[ShardRecord, ...]: ...

    def __getitem__(self, key: int | slice) -> ShardRecord | tuple[ShardRecord, ...]:
        if isinstance(key, slice):
            return tuple(self[number] for number in range(len(self))[key])
        number = range(len(self))[key]
        row, start = self._columns[number], int(self._columns["name_end"][number - 1]) if number else 0
        return ShardRecord(
            name=self._names[start : int(row["name_end"])].tobytes().decode(),
            samples=int(row["samples"]),
            bytes=int(row["bytes"]),
            sha256=row["sha256"].tobytes().hex(),
        )

    def __iter__(self) -> Iterator[ShardRecord]:
        return (self[number] for number in range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(_equal, self, other))

    __hash__ = None  # type: ignore[assignment]


def _equal(one: object, other: object) -> bool:
    return one == other


class CountTable(Sequence[list[int]]):
    """Numbers of samples in each shard and bucket, (shards, buckets), used like the lists they stand for."""

    def __init__(self, values: np.ndarray) -> None:
        if values.dtype != np.uint32 or values.ndim != 2:
            raise ValueError("it is no table of counts")
        self._values = values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self._values, dtype, copy=copy)

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, key: Any) -> Any:
        return self._values[key].tolist()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._values.tolist() == list(other)

    __hash__ = None  # type: ignore[assignment]


def arrays_of(shards: Sequence[ShardRecord]) -> tuple[np.ndarray, np.ndarray] | None:
    """Return the columns and names of records, of which `ShardTable` gives equal ones.

    None where one has no SHA-256 as this program writes it.
    """
    if not all(_HASH.fullmatch(shard.sha256) for shard in shards):
        return None
    names = [shard.name.encode() for shard in shards]
    columns = np.empty(len(shards), COLUMNS)
    columns["name_end"] = np.cumsum([len(name) for name in names])
    columns["samples"] = [shard.samples for shard in shards]
    columns["bytes"] = [shard.bytes for shard in shards]
    columns["sha256"] = np.frombuffer(bytes.fromhex("".join(shard.sha256 for shard in shards)), "V32")
    return columns, np.frombuffer(b"".join(names), np.uint8)


def samples_of(shards: Sequence[ShardRecord]) -> np.ndarray:
    """Return the samples of each shard, (shards,) int64."""
    if isinstance(shards, ShardTable):
        return shards.samples
    return np.array([shard.samples for shard in shards], np.int64)


def bytes_of(shards: Sequence[ShardRecord]) -> np.ndarray:
    """Return the length of each shard, (shards,) int64."""
    if isinstance(shards, ShardTable):
        return shards.bytes
    return np.array([shard.bytes for shard in shards], np.int64)


def names_of(shards: Sequence[ShardRecord]) -> list[str]:
    """Return the name of each shard."""
    return shards.names() if isinstance(shards, ShardTable) else [shard.name for shard in shards]
