"""The parts of an unfinished job whose samples are files of their own: a receipt for each range of samples.

`parts/part-FIRST-LAST.json` lists the files of samples FIRST to LAST of the order in which they are made, and
those of their latents if they are asked for, with their hashes, and `made_from`. Files are published before
their receipt, so a range without one is made again, and its files are replaced by equal ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from core.checkpoint.tensor_file import write_tensors
from core.files import atomic_file, sha256_file, write_json, write_text
from core.reading import json_files
from core.reading.json_files import Malformed
from tools.runs.sample_files import PublishedFile
from tools.sample.files.kinds import KINDS, FileKind
from tools.sample.parts import DamagedPart, Decoded, listed_ranges

LATENTS = "latents"  # the tensor (C, T, H, W) in a file that ends so:
LATENTS_SUFFIX = ".safetensors"


class _Receipt(TypedDict):
    made_from: str
    files: list[PublishedFile]


@dataclass(frozen=True)
class FileParts:
    """The place of a job's receipts, and the files of its samples.

    order: number of the sample at each place of the order.  names, fps, kinds (with qualities): by number of
    the sample, names as paths below `output`.  beside: contents of further files by path, written with the
    sample of the number.
    """

    folder: Path
    output: Path
    made_from: str
    order: NDArray[np.int64]
    names: list[str]
    fps: list[float]
    kinds: list[tuple[FileKind, int | None]]
    beside: dict[int, tuple[str, str]]

    @property
    def count(self) -> int:
        return len(self.order)

    def path(self, rows: range) -> Path:
        """Return the path of a range's receipt."""
        return self.folder / f"part-{rows.start:06d}-{rows.stop - 1:06d}.json"

    def write(self, rows: range, made: Iterable[Decoded]) -> None:
        """Publish the files of a range, then its receipt."""
        files, places = list[PublishedFile](), iter(rows)
        for pixels, latents in made:
            for number, own in enumerate(pixels):
                index = int(self.order[next(places)])
                files.append(self._publish(index, own, None if latents is None else latents[number]))
        write_json(self.path(rows), _Receipt(made_from=self.made_from, files=files))

    def _publish(self, index: int, pixels: NDArray[np.uint8], latents: Tensor | None) -> PublishedFile:
        kind, quality = self.kinds[index]
        data = KINDS[kind].encode(pixels, self.fps[index], quality)
        path = self.output / self.names[index]
        with atomic_file(path) as file:
            file.write(data)
        if index in self.beside:
            name, text = self.beside[index]
            write_text(self.output / name, text)
        row = PublishedFile(index=index, file=self.names[index], sha256=hashlib.sha256(data).hexdigest())
        if latents is not None:
            row["latents"] = latents_name(self.names[index])
            row["latents_sha256"] = write_tensors(self.output / row["latents"], {LATENTS: latents}).sha256
        return row

    def check(self, rows: range) -> None:
        """Raise DamagedPart unless the files of a range are those of its receipt, and that is this job's."""
        for row in self.receipt(rows):
            listed = [(row["file"], row["sha256"])]
            if "latents" in row:
                listed.append((row["latents"], row["latents_sha256"]))
            for name, digest in listed:
                path = self.output / name
                if not path.is_file():
                    raise DamagedPart(f"{path} is missing")
                if sha256_file(path) != digest:
                    raise DamagedPart(f"{path} has another SHA-256")

    def receipt(self, rows: range) -> list[PublishedFile]:
        """Read the receipt of a range; DamagedPart if it is not what this job wrote."""
        try:
            found = json_files.read(self.path(rows), _Receipt)
        except (OSError, Malformed) as error:
            raise DamagedPart(f"it is damaged ({error})") from None
        if found["made_from"] != self.made_from:
            raise DamagedPart(f"it was made from {found['made_from'][:12]!r}, not {self.made_from[:12]!r}")
        expected = [(int(self.order[place]), self.names[self.order[place]]) for place in rows]
        if [(row["index"], row["file"]) for row in found["files"]] != expected:
            raise DamagedPart("it lists other files")
        return found["files"]

    def listed(self) -> tuple[list[range], list[Path]]:
        """Return the ranges that receipts are named after, and files that are not this job's."""
        return listed_ranges(self)


def latents_name(name: str) -> str:
    """Return the path of a sample's latents, by that of its file."""
    return str(PurePosixPath(name).with_suffix(LATENTS_SUFFIX))
