"""Read checkpoints: any range of any tensor, on whatever number of ranks and ZeRO stage it was written."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from core.checkpoint import format
from core.checkpoint.format import DamagedCheckpoint
from core.checkpoint.tensor_file import Entry, entries_in, open_tensors, shape_of
from core.engine.network import MAIN
from core.engine.shards import Cut, Cutting
from core.errors import UserError, WorkError
from core.files import sealed
from core.reading import json_files
from core.reading.json_files import Malformed

T = TypeVar("T")
_Range = tuple[int, int, Path, str]  # first and last element, file, key


class CheckpointReader:
    """One network of a published checkpoint. Nothing is trusted before `verify` has seen it.

    networks: the names of all that it holds.
    """

    def __init__(self, folder: Path, network: str = MAIN) -> None:
        self.folder, self.network = folder, network
        try:
            self.manifest = json_files.read(folder / format.MANIFEST, dict[str, Any])
        except FileNotFoundError:
            raise WorkError(f"{folder} is not a complete checkpoint: it has no {format.MANIFEST}") from None
        except (OSError, Malformed) as error:
            raise DamagedCheckpoint(f"{folder / format.MANIFEST} cannot be read: {error}") from None
        version = self.manifest.get("format")
        has_hash = version == format.VERSION or "sha256" in self.manifest  # format 1 had none
        if has_hash and self.manifest != sealed(self.manifest):
            raise DamagedCheckpoint(f"{folder / format.MANIFEST} differs from its own SHA-256")
        if version != format.VERSION:
            raise WorkError(f"{folder} has format {version}; this version reads {format.VERSION}")
        found = _fitting(self.manifest, format.Manifest, folder / format.MANIFEST)
        layouts: dict[str, format.Layout] = {MAIN: found, **found.get("networks", {})}
        self.networks = list(layouts)
        if network not in layouts:
            names = ", ".join(map(repr, layouts))
            raise UserError("network", repr(network), f"one of {names}, which {folder.name} holds")
        layout = layouts[network]
        self.kinds: list[str] = layout["kinds"]
        self.shapes = {name: tuple(shape) for name, shape in layout["shapes"].items()}
        numbers = sum(math.prod(shape) for shape in self.shapes.values())
        if numbers > (
            size := sum(file["size"] for file in found["files"].values())
        ):  # each at least a byte long
            raise DamagedCheckpoint(f"{folder / format.MANIFEST} tells of {numbers} numbers in {size} bytes")
        self._cutting = self._cutting_of(layout, found["ranks"])
        self._partial: dict[str, list[str]] = layout.get("partial", {})
        self._opened: dict[Path, Any] = {}
        self._files_of: dict[int, str] | None = None
        self._index: dict[tuple[str, str], list[_Range]] | None = None

    @property
    def files(self) -> list[str]:
        """Return the names of all files the manifest lists, in a fixed order."""
        return sorted(self.manifest["files"])

    def verify(self, names: Iterable[str] | None = None) -> None:
        """Compare files (default: all) with the manifest; DamagedCheckpoint names the first that differs."""
        for name in self.files if names is None else names:
            if name not in self.manifest["files"]:
                raise DamagedCheckpoint(f"{self.folder / format.MANIFEST} does not list {name}")
            format.require_as_written(self.folder / name, self.manifest["files"][name])

    def state(self) -> dict[str, Any]:
        """Return the content of state.json, for another network than the main one with its part in place."""
        path = self.folder / format.STATE
        try:
            state = json_files.read(path, dict[str, Any])
        except Malformed as error:
            raise DamagedCheckpoint(str(error)) from None
        _fitting(state, format.State, path)
        if self.network:
            state |= state.get("networks", {}).get(self.network, {})
            _fitting(state, format.State, path)
        return state

    def read(self, kind: str, name: str, start: int, stop: int, out: Tensor) -> None:
        """Copy elements [start, stop) of a flattened tensor into `out`, 1-D."""
        filled = 0
        for first, last, path, key in self._ranges_of(kind, name, start, stop):
            low, high = max(first, start), min(last, stop)
            if low < high:
                piece = self._open(path).get_slice(key)[low - first : high - first]
                out[low - start : high - start].copy_(piece)
                filled += high - low
        if filled != stop - start:
            raise DamagedCheckpoint(
                f"{self.folder} holds {filled} of {stop - start} numbers of {kind}/{name}"
            )

    def names(self, kind: str) -> list[str]:
        """Return the parameters for which a tensor of this kind exists."""
        return self._partial.get(kind, list(self.shapes))

    def whole(self, kind: str, name: str) -> Tensor:
        """Return one tensor of a kind, whole."""
        shape = self.shapes[name]
        flat = torch.empty(math.prod(shape))
        self.read(kind, name, 0, flat.numel(), flat)
        return flat.view(shape)

    def full(self, kind: str) -> dict[str, Tensor]:
        """Return every tensor of a kind, whole."""
        return {name: self.whole(kind, name) for name in self.names(kind)}

    def fixed(self) -> dict[str, Tensor]:
        """Return frozen parameters and buffers, by `frozen/NAME` and `buffer/NAME`."""
        file = self._open(self.folder / format.FIXED)
        return {name: file.get_tensor(key) for key, name in self._fixed_names().items()}

    def fixed_entries(self) -> list[Entry]:
        """Return frozen parameters and buffers, by their names alone, to be read one after the other."""
        names = {key: name.partition("/")[2] for key, name in self._fixed_names().items()}
        return entries_in(self.folder / format.FIXED, names)

    def _fixed_names(self) -> dict[str, str]:
        """Return `frozen/NAME` and `buffer/NAME` by key of the file."""
        file, kinds = self._open(self.folder / format.FIXED), dict[str, str]()
        for sort in ("frozen", "buffer"):
            kinds[format.of_network(self.network, sort)] = sort
        parts = ((key, *key.partition("/")[::2]) for key in file.keys())  # noqa: SIM118 (not a dict)
        return {key: f"{kinds[kind]}/{name}" for key, kind, name in parts if kind in kinds}

    def kind_of(self, which: str) -> str:
        """Return the kind that "raw", "ema" (the main average) or the name of an average stands for."""
        average = self.average_of(which)
        return format.WEIGHT if average is None else format.ema_kind(average)

    def average_of(self, which: str) -> str | None:
        """Return the name of the average that `which` stands for, as `kind_of` reads it; None for "raw"."""
        names: list[str] = self.state()["ema"]
        if which == "raw":
            return None
        if which == "ema" and names:
            return names[0]
        if which in names:
            return which
        accepted = ["raw", *(["ema"] if names else []), *names]
        raise UserError("weights", which, f"one of {', '.join(accepted)}, which {self.folder.name} holds")

    def _open(self, path: Path) -> Any:
        """Map the safetensors file, once: opening it parses a header that grows with the network."""
        if path not in self._opened:
            self._opened[path] = open_tensors(path)
        return self._opened[path]

    def _ranges_of(self, kind: str, name: str, start: int, stop: int) -> Iterable[_Range]:
        """Return ranges (start, stop, file, key) of a tensor that are in [start, stop), and maybe others.

        By the manifest, so that only these files are opened; by all headers of what an earlier version wrote.
        """
        stored = format.of_network(self.network, kind)
        if name not in self._cutting:
            return self._by_headers().get((stored, name), [])
        if name not in self.names(kind):
            return []
        return [
            self._require(self._tensors_of(rank), format.key(stored, name, first), first, last)
            for rank, first, last in self._cutting.pieces(name, start, stop)
        ]

    def _cutting_of(self, layout: format.Layout, ranks: int) -> Cutting:
        """Return how the manifest says that parameters are cut; of none where it does not.

        DamagedCheckpoint where replicas of equal size cannot be so many ranks together.
        """
        cuts, replicas = [(name, *cut) for name, cut in layout.get("cuts", {}).items()], 1
        if replicated := layout.get("replicated"):
            cuts, replicas = replicated["cuts"], replicated["replicas"]
        if ranks % replicas:
            raise DamagedCheckpoint(
                f"{self.folder / format.MANIFEST} tells of {replicas} replicas and {ranks} ranks"
            )
        known = [Cut(name, self.shapes[name], 0, *cut) for name, *cut in cuts if name in self.shapes]
        return Cutting(known, ranks // replicas, replicas)

    def _require(self, file: str, key: str, start: int, stop: int) -> _Range:
        """Return the range; DamagedCheckpoint unless the file has it."""
        path = self.folder / file
        if (shape := shape_of(self._open(path), key)) != [stop - start]:
            found = f"of shape {shape}" if shape else "missing"
            raise DamagedCheckpoint(
                f"{path}: {key} is {found}; {format.MANIFEST} tells of {stop - start} numbers"
            )
        return start, stop, path, key

    def _tensors_of(self, rank: int) -> str:
        """Return the name of a rank's file, in whichever folder it lies."""
        if self._files_of is None:
            named = {format.rank_of(name): name for name in self.files if name.endswith(".safetensors")}
            self._files_of = {rank: name for rank, name in named.items() if rank is not None}
        if rank not in self._files_of:
            name = format.tensors_name(rank)
            raise DamagedCheckpoint(f"{self.folder / format.MANIFEST} does not list {name}")
        return self._files_of[rank]

    def _by_headers(self) -> dict[tuple[str, str], list[_Range]]:
        """Return (kind, name) -> ranges, read from the headers of all files at first use."""
        if self._index is None:
            self._index = {}
            for rank in range(self.manifest["ranks"]):
                path = self.folder / self._tensors_of(rank)
                file = self._open(path)
                try:
                    for key in file.keys():  # noqa: SIM118 (not a dict)
                        kind, name, start = format.parse_key(key)
                        stop = start + file.get_slice(key).get_shape()[0]
                        self._index.setdefault((kind, name), []).append((start, stop, path, key))
                except (ValueError, LookupError) as error:  # not a key or shape of this format
                    raise DamagedCheckpoint(f"{path} cannot be read: {error}") from None
        return self._index


def _fitting(content: dict[str, Any], schema: type[T], path: Path) -> T:
    """Read the content by its schema; DamagedCheckpoint where it does not fit."""
    try:
        return json_files.checked(content, schema, path)
    except Malformed as error:
        raise DamagedCheckpoint(str(error)) from None
