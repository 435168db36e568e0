"""The layout of a checkpoint folder and the names of its parts.

`checkpoints/step-XXXXXXXX.ATTEMPT/`

- `rank-RRRRR.safetensors`: ranges of named tensors, 1-D; key `KIND/NAME@START`, elements from START on
- `rank-RRRRR.json`: that rank's receipt, its files with size and SHA-256. From rank 1000 on both lie in
  folders of a thousand ranks, `ranks-001/` and so on; earlier versions had all in one. So no folder has more
  than two files for each of a thousand ranks, beside the three below and, in the first, the other folders
- `fixed.safetensors`: frozen parameters `frozen/NAME` and buffers `buffer/NAME`, whole (rank 0)
- `state.json`: step, counters, parameter groups, fingerprints, config, versions (rank 0)
- `manifest.json`: all files with size and SHA-256, the shapes, the kinds, and the SHA-256 of itself; written
  last: without it the folder is no checkpoint

KIND is `weight` (fp32 masters), `exp_avg`, `exp_avg_sq`, `momentum` (of Muon), or `ema-NAME` for every
average. A kind that exists for some parameters only is listed with their names in the manifest's `partial`.
Which ranks have which elements of a parameter follows from two numbers in the manifest's `cuts`, or in
`replicated` where several replicas share the writing, so that nobody need open files to find out; checkpoints
of earlier versions have none.

A run of several networks has one without a name, and all of the above is that one's. The keys of tensors of
another begin with its name, `NAME:`; its kinds, partial kinds and shapes are in the manifest's `networks`, by
name, and its part of the state (updates, averages, parameter groups) in the state's `networks`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

from core.errors import WorkError
from core.files import sha256_file
from core.reading.json_scalars import BelowName, Count, Range

VERSION = 2
RANKS_A_FOLDER = 1000
MANIFEST = "manifest.json"
STATE = "state.json"
FIXED = "fixed.safetensors"
WEIGHT = "weight"
_OF_RANK = re.compile(r"(ranks-\d{3,}/)?rank-(?P<rank>\d{5,})\.")
_FOLDER = re.compile(r"step-(?P<step>\d{8,})\.(?P<attempt>[\w.-]+)")


class DamagedCheckpoint(WorkError):
    """A file of a published checkpoint is missing, cut off or altered."""


class FileEntry(TypedDict):
    """A `FileRecord` in JSON form."""

    size: Count
    sha256: str


PartSize = Annotated[int, Range(1, 1 << 62)]


class Replicated(TypedDict):
    """How parameters are cut over the ranks of each of several replicas: name, first and size, in order.

    Of what rank r holds in every replica, each one's rank r writes an even part
    (`core.engine.shards.Cutting`).
    """

    replicas: Annotated[int, Range(2, 1 << 20)]
    cuts: list[tuple[str, Count, PartSize]]


class Layout(TypedDict):
    """The part of a manifest about one network.

    cuts: first and size of `core.engine.shards.Cut`, by parameter: rank r's file has the elements
    [r * size - first, (r + 1) * size - first) that there are.
    """

    kinds: list[str]
    shapes: dict[str, list[Count]]
    partial: NotRequired[dict[str, list[str]]]
    cuts: NotRequired[dict[str, tuple[Count, PartSize]]]
    replicated: NotRequired[Replicated]


class Manifest(Layout):
    """The content of `manifest.json`."""

    format: int
    step: Count
    number: Count
    ranks: Annotated[int, Range(1, 1 << 20)]
    files: dict[BelowName, FileEntry]
    networks: NotRequired[dict[str, Layout]]
    sha256: str


class State(TypedDict):
    """The entries of `state.json` that every reader needs.  ema: names of averages."""

    step: Count
    updates: Count
    ema: list[str]
    ema_updates: NotRequired[Count]
    ema_widths: NotRequired[dict[str, float]]
    samples_seen: NotRequired[Count]
    skipped: NotRequired[Count]
    passed_over: NotRequired[list[int]]
    records: NotRequired[dict[str, Any]]
    identity: NotRequired[dict[str, Any]]
    versions: NotRequired[dict[str, Any]]
    networks: NotRequired[dict[str, dict[str, Any]]]


@dataclass(frozen=True)
class FileRecord:
    """A published file: its size in bytes and SHA-256."""

    size: int
    sha256: str


def require_as_written(path: Path, record: Mapping[str, Any], said_by: str = MANIFEST) -> None:
    """Raise DamagedCheckpoint unless the file matches its record (`size`, `sha256`) in the file `said_by`."""
    if not path.exists():
        raise DamagedCheckpoint(f"{path} is missing")
    if (size := path.stat().st_size) != record["size"]:
        raise DamagedCheckpoint(f"{path} has {size} bytes, {said_by} says {record['size']}")
    if sha256_file(path) != record["sha256"]:
        raise DamagedCheckpoint(f"{path} differs from its SHA-256 in {said_by}: it was altered or decayed")


def tensors_name(rank: int) -> str:
    """Return the name of the file with a rank's ranges."""
    return f"{_part_of(rank)}rank-{rank:05d}.safetensors"


def rank_of(name: str) -> int | None:
    """Return the rank that wrote a file of this name, None for one that is not of a rank."""
    match = _OF_RANK.match(name)
    return int(match["rank"]) if match else None


def receipt_name(rank: int) -> str:
    """Return the name of a rank's receipt, which lists the files that it wrote."""
    return f"{_part_of(rank)}rank-{rank:05d}.json"


def _part_of(rank: int) -> str:
    """Return the folder for a rank's files, of which none gets too many; '' for the first ranks."""
    return f"ranks-{rank // RANKS_A_FOLDER:03d}/" if rank >= RANKS_A_FOLDER else ""


def ema_kind(name: str) -> str:
    """Return the kind under which the average `name` is stored."""
    return f"ema-{name}"


def of_network(network: str, text: str) -> str:
    """Prefix a kind, or a name of another part, with its network's name; the main network has none."""
    return f"{network}:{text}" if network else text


def key(kind: str, name: str, start: int) -> str:
    """Return the key of a range that begins at element `start` of the flattened tensor."""
    return f"{kind}/{name}@{start}"


def parse_key(text: str) -> tuple[str, str, int]:
    """Return kind, name and start of a key."""
    kind, _, rest = text.partition("/")
    name, _, start = rest.rpartition("@")
    return kind, name, int(start)


def folder_name(step: int, attempt: str) -> str:
    """Return the folder of a checkpoint after `step` steps, written by one attempt."""
    return f"step-{step:08d}.{attempt}"


def step_of(folder: Path) -> int | None:
    """Return the step in a checkpoint folder's name, None for another folder."""
    match = _FOLDER.fullmatch(folder.name)
    return int(match["step"]) if match else None
