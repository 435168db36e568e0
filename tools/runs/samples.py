"""The results of `sample` for their readers: the manifest samples.json and the arrays of samples.npz.

samples.json is the last file to be written and has the hash of samples.npz, so that readers need not trust
that two files in one folder belong together. Manifests of earlier versions have no `made_from`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, NotRequired, TypedDict

import numpy as np
from numpy.typing import NDArray

from core.errors import UserError, WorkError
from core.files import published, sealed, sha256_file
from core.progress import counted
from core.reading import json_files
from core.reading.array_files import Archive, DamagedArray, open_archive
from core.reading.instead import instead
from core.reading.json_files import Malformed
from core.reading.json_scalars import Range
from core.run.folder import SAMPLES
from core.run.ways_out import holds, ways_out
from tools.runs.sample_files import FileRow, labels_of, read_file, read_files, rows_of

ARRAYS = "samples.npz"
OVERVIEW = "overview.png"  # beside these, of some of them
FILES = "samples.jsonl"  # where samples are files of their own: a row for each
MADE_FROM = "made_from.json"  # from before the first sample on; `sha256` in it seals it
MADE_FROM_VERSION = 1
AUTO_GRID = "auto_grid"  # in it, where `sampler.grid=auto` is not what it was in earlier versions
Side = Annotated[int, Range(1, 1 << 31)]


class _Record(TypedDict):
    """The fields of `samples.json` that anything depends on; manifests written by others may have fewer."""

    count: Side
    frames: NotRequired[Side]  # not said where samples differ in size
    height: NotRequired[Side]
    width: NotRequired[Side]
    files: NotRequired[dict[str, Any]]
    checkpoint: NotRequired[str | None]
    weights: NotRequired[str | None]
    run: NotRequired[str | None]
    samples_sha256: NotRequired[str | None]
    made_from: NotRequired[str | None]
    weights_sha256: NotRequired[str | None]
    autoencoder: NotRequired[str | None]
    classes: NotRequired[list[str]]
    prompts: NotRequired[list[str]]


class _MadeFrom(TypedDict):
    """The fields of `made_from.json` that are read, not only compared."""

    checkpoint: str
    weights: str
    manifest_sha256: str
    network: dict[str, Any]
    sampler: dict[str, Any]
    sha256: str


@dataclass(frozen=True)
class Samples:
    """A finished folder of generated images (frames = 1) or clips.

    frames, height, width: of each; 0 where they differ, in a folder of single files.
    """

    folder: Path
    count: int
    frames: int
    height: int
    width: int
    record: dict[str, Any]  # the whole of samples.json: checkpoint, weights, sampler, seed, ...

    @classmethod
    def read(cls, folder: Path) -> Samples:
        """Read the manifest; WorkError if it is damaged."""
        path = folder / SAMPLES
        record = json_files.read(path, dict[str, Any])
        known = json_files.checked(record, _Record, path)
        frames, height, width = known.get("frames", 0), known.get("height", 0), known.get("width", 0)
        if "files" not in known and not (frames and height and width):
            raise Malformed(f"{path}: frames, height and width are missing")
        return cls(folder, known["count"], frames, height, width, record=record)

    @property
    def listed(self) -> Path:
        """The file that the manifest has the hash of: the arrays, or the list of single files."""
        return self.folder / (FILES if "files" in self.record else ARRAYS)

    @property
    def origin(self) -> str:
        """The origin of these samples, for a person; manifests written by others may not say."""
        checkpoint, weights, run = (self.record.get(name) for name in ("checkpoint", "weights", "run"))
        if not checkpoint or not run:
            return f"{SAMPLES} does not say from which weights"
        return f"from the {weights} weights of {checkpoint} in {run}"

    def verify(self) -> str:
        """Return the SHA-256 of samples.npz, or of the list of single files.

        WorkError unless it is the manifest's, and both are of one job.
        """
        arrays, recorded = self.listed, self.record.get("samples_sha256")
        if not arrays.is_file():
            raise WorkError(f"{arrays} is missing, and {SAMPLES} tells of it")
        digest = sha256_file(arrays)
        if recorded not in (None, digest):
            raise WorkError(f"{arrays} is not the file that {SAMPLES} tells of: its SHA-256 differs")
        if recorded is None and "files" not in self.record:
            with self._archive() as archive:
                archive.check("arr_0")
        claimed, begun = self.record.get("made_from"), read_made_from(self.folder)
        if claimed is not None and begun is not None and begun["sha256"] != claimed:
            raise WorkError(
                f"{self.folder / MADE_FROM} ({begun['sha256'][:12]}) and {SAMPLES} ({claimed[:12]}) "
                "are of different samples"
            )
        return digest

    def load(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return pixels, (N, H, W, 3) or (N, T, H, W, 3), and labels (N,), -1 for no class.

        WorkError where they cannot be read, or are not of the shape that the manifest says.
        """
        if "files" in self.record:
            classes = tuple(self.record.get("classes", ()))
            return read_files(self.listed, (self.count, self.frames, self.height, self.width), classes)
        frames = (self.frames,) if self.frames > 1 else ()
        expected = (self.count, *frames, self.height, self.width, 3)
        with self._archive() as arrays:
            pixels = arrays.read("arr_0", math.prod(expected))
        if pixels.shape != expected or pixels.dtype != np.uint8:
            found = f"{pixels.dtype} {pixels.shape}"
            raise WorkError(f"{self.folder / ARRAYS} holds {found}, and {SAMPLES} tells of uint8 {expected}")
        return pixels, self.labels

    def some(self, rows: range) -> NDArray[np.uint8]:
        """Return the pixels of these samples alone; WorkError as `load`.  `verify` comes first."""
        frames = (self.frames,) if self.frames > 1 else ()
        each = (*frames, self.height, self.width, 3)
        if "files" in self.record:
            files = self._rows[rows.start : rows.stop]
            return np.stack([read_file(self.folder, row, self.frames, each) for row in files])
        with self._archive() as arrays:
            return arrays.rows("arr_0", (self.count, *each), np.uint8, rows)

    @cached_property
    def labels(self) -> NDArray[np.int64]:
        """Labels of the samples (N,), -1 for no class; WorkError as `load`."""
        if "files" in self.record:
            return labels_of(self._rows, tuple(self.record.get("classes", ())))
        with self._archive() as arrays:
            labels = arrays.read("labels", 8 * self.count)
        if labels.shape != (self.count,) or labels.dtype.kind not in "iuf" or not np.isfinite(labels).all():
            found = f"labels {labels.dtype} {labels.shape}"
            raise WorkError(f"{self.folder / ARRAYS} holds {found}, and {SAMPLES} tells of {self.count}")
        return labels.astype(np.int64)

    @contextlib.contextmanager
    def _archive(self) -> Iterator[Archive]:
        """Open samples.npz; WorkError for whatever the block cannot read from it."""
        path = self.folder / ARRAYS
        try:
            with open_archive(path) as arrays:
                yield arrays
        except DamagedArray as error:
            raise WorkError(f"{path} is {error}") from None

    @cached_property
    def _rows(self) -> list[FileRow]:
        rows = rows_of(self.listed)
        if len(rows) != self.count:
            raise WorkError(f"{self.listed} lists {len(rows)} files, and the manifest tells of {self.count}")
        return rows


def require_one_origin(found: Sequence[Samples]) -> None:
    """Raise UserError if folders are known to be of different weights or autoencoders: a score is of one."""
    for name in ("weights_sha256", "autoencoder"):
        known = {s.record[name]: s for s in found if s.record.get(name)}
        if len(known) > 1:
            each = "; ".join(f"{s.folder}: {s.origin} ({name} {value[:12]})" for value, s in known.items())
            raise UserError(
                "source", found[0].folder.parent, f"samples of one run and checkpoint, not {each}"
            )


def samples_made(output: Path) -> str:
    """Say what overwriting an output would cost: finished samples, or parts of them; "" for nothing."""
    files = holds(output)
    if (output / SAMPLES).exists():
        return f"{counted(Samples.read(output).count, 'sample')}, {files}"
    parts = len(published(output / "parts", "part-*"))
    return f"{counted(parts, 'part')} of the samples, {files}" if parts else files


def anew(output: Path) -> str:
    """Complete a refusal to continue samples: other ways, and what overwriting would remove."""
    return ways_out(samples_made(output), "the old content")


def read_made_from(folder: Path) -> dict[str, Any] | None:
    """Read what the job in `folder` is made from, None if it does not say; WorkError if that is damaged."""
    path = folder / MADE_FROM
    try:
        record = json_files.read(path, dict[str, Any])
    except FileNotFoundError:
        return None
    except (OSError, Malformed) as error:
        raise WorkError(f"{path} is damaged ({error}); {anew(folder)}") from None
    if record != sealed(record):
        raise WorkError(f"{path} is damaged: it differs from its own SHA-256; {anew(folder)}")
    if record.get("format") != MADE_FROM_VERSION:
        raise WorkError(
            f"{path} has format {record.get('format')}; this version reads {MADE_FROM_VERSION}; "
            f"{anew(folder)}"
        )
    try:
        json_files.checked(record, _MadeFrom, path)
    except Malformed as error:
        raise WorkError(f"{error}; {anew(folder)}") from None
    return record


def find_samples(source: Path) -> list[Samples]:
    """List the finished samples in `source` or in the folders right below it; UserError if there are none."""
    if (source / SAMPLES).is_file():
        return [_of_one_size(Samples.read(source))]
    folders = [folder for folder in published(source) if (folder / SAMPLES).is_file()]
    if not folders:
        expected = f"a folder of samples (with {SAMPLES}), or one of such folders{instead(source)}"
        raise UserError("source", source, expected)
    return [_of_one_size(Samples.read(folder)) for folder in folders]


def _of_one_size(samples: Samples) -> Samples:
    if not samples.height:
        raise UserError("source", samples.folder, "samples of one size, which these are not")
    return samples
