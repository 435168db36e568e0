"""Weights as one safetensors file or, above a size, as several with an index, as other libraries read them.

`NAME-00001-of-00003.safetensors` and so on hold the tensors in their order, and `NAME.safetensors.index.json`
says which is in which file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TypedDict

from torch import Tensor

from core.checkpoint.format import FileRecord
from core.checkpoint.tensor_file import Entry, load_tensors, write_entries
from core.files import sha256_file, write_json
from core.reading import json_files
from core.reading.json_scalars import BelowName

SUFFIX = ".safetensors"
LARGEST = 5_000_000_000  # bytes of tensors in a file
_SHARD = re.compile(r"-\d{5}-of-\d{5}" + re.escape(SUFFIX))


class _Index(TypedDict):
    weight_map: dict[str, BelowName]


def write_sharded(
    folder: Path, stem: str, entries: Sequence[Entry], largest: int = LARGEST
) -> dict[str, FileRecord]:
    """Write `STEM.safetensors`, or the files and the index that hold the same; return all by name.

    largest: bytes of tensors in a file; a tensor that is larger has one for itself.
    """
    shards = _cut(entries, largest)
    if len(shards) == 1:
        return {stem + SUFFIX: write_entries(folder / (stem + SUFFIX), entries)}
    found, places = dict[str, FileRecord](), dict[str, str]()
    for number, shard in enumerate(shards, 1):
        name = f"{stem}-{number:05d}-of-{len(shards):05d}{SUFFIX}"
        found[name] = write_entries(folder / name, shard)
        places |= {entry.name: name for entry in shard}
    index = folder / index_of(stem)
    size = sum(entry.size for entry in entries)
    write_json(index, {"metadata": {"total_size": size}, "weight_map": places})
    found[index.name] = FileRecord(index.stat().st_size, sha256_file(index))
    return found


def index_of(stem: str) -> str:
    """Return the name of the index of several files."""
    return f"{stem}{SUFFIX}.index.json"


def is_shard(name: str, stem: str) -> bool:
    """Return whether a file is one of several, by its name."""
    return name.startswith(stem) and _SHARD.fullmatch(name, len(stem)) is not None


def load_sharded(folder: Path, stem: str) -> dict[str, Tensor]:
    """Read all tensors of one file, or of those that an index names.

    DamagedCheckpoint or Malformed where that cannot be.
    """
    index = folder / index_of(stem)
    if not index.is_file():
        return load_tensors(folder / (stem + SUFFIX))
    names = sorted(set(json_files.read(index, _Index)["weight_map"].values()))
    return load_all(folder / name for name in names)


def load_all(paths: Iterable[Path]) -> dict[str, Tensor]:
    """Read all tensors of several files."""
    found = dict[str, Tensor]()
    for path in paths:
        found |= load_tensors(path)
    return found


def _cut(entries: Sequence[Entry], largest: int) -> list[list[Entry]]:
    """Return the entries of each file, in order."""
    shards, size = [list[Entry]()], 0
    for entry in entries:
        if shards[-1] and size + entry.size > largest:
            shards.append([])
            size = 0
        shards[-1].append(entry)
        size += entry.size
    return shards
