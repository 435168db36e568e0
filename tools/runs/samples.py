"""What `sample` wrote, as its readers find it: the manifest samples.json and the arrays of samples.npz.

samples.json is the last file to be written and has the hash of samples.npz, so that readers need not trust
that two files in one folder belong together. Manifests of earlier versions have no `made_from`.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from numpy.typing import NDArray

from core.checkpoint.format import sealed
from core.errors import UserError, WorkError
from core.files import instead, published, sha256_file
from core.progress import counted
from core.run.folder import SAMPLES
from core.run.ways_out import holds, ways_out

ARRAYS = "samples.npz"
MADE_FROM = "made_from.json"  # from before the first sample on; `sha256` in it seals it
MADE_FROM_VERSION = 1


@dataclass(frozen=True)
class Samples:
    """A finished folder of generated images (frames = 1) or clips."""

    folder: Path
    count: int
    frames: int
    height: int
    width: int
    record: dict[str, Any]  # the whole of samples.json: checkpoint, weights, sampler, seed, ...

    @classmethod
    def read(cls, folder: Path) -> Samples:
        """Read the manifest; WorkError if it is damaged."""
        try:
            record = json.loads((folder / SAMPLES).read_text(encoding="utf-8"))
            return cls(
                folder, record=record, **{n: int(record[n]) for n in ("count", "frames", "height", "width")}
            )
        except (ValueError, KeyError, TypeError) as error:
            raise WorkError(f"{folder / SAMPLES} is damaged ({type(error).__name__}: {error})") from None

    @property
    def origin(self) -> str:
        """Whose samples these are, for a person; manifests written by others may not say."""
        checkpoint, weights, run = (self.record.get(name) for name in ("checkpoint", "weights", "run"))
        if not checkpoint or not run:
            return f"{SAMPLES} does not say from which weights"
        return f"from the {weights} weights of {checkpoint} in {run}"

    def verify(self) -> str:
        """The SHA-256 of samples.npz; WorkError unless it is the manifest's, and both are of one job."""
        arrays, recorded = self.folder / ARRAYS, self.record.get("samples_sha256")
        if not arrays.is_file():
            raise WorkError(f"{arrays} is missing, and {SAMPLES} tells of it")
        digest = sha256_file(arrays)
        if recorded not in (None, digest):
            raise WorkError(f"{arrays} is not the file that {SAMPLES} tells of: its SHA-256 differs")
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
        path = self.folder / ARRAYS
        try:
            with np.load(path, allow_pickle=False) as arrays:
                pixels, labels = arrays["arr_0"], arrays["labels"].astype(np.int64)
        except (OSError, ValueError, KeyError, EOFError, RuntimeError, BadZipFile, zlib.error) as error:
            raise WorkError(f"{path} is damaged ({type(error).__name__}: {error})") from None
        frames = (self.frames,) if self.frames > 1 else ()
        expected = (self.count, *frames, self.height, self.width, 3)
        if pixels.shape != expected or pixels.dtype != np.uint8 or labels.shape != expected[:1]:
            found = f"{pixels.dtype} {pixels.shape} with labels {labels.shape}"
            raise WorkError(f"{path} holds {found}, and {SAMPLES} tells of uint8 {expected}")
        return pixels, labels


def require_one_origin(found: Sequence[Samples]) -> None:
    """UserError where folders are known to be of different weights or autoencoders: a score is of one."""
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
    parts = len(published(output / "parts", "*.npz"))
    return f"{counted(parts, 'part')} of the samples, {files}" if parts else files


def anew(output: Path) -> str:
    """End a refusal to go on with samples: other ways, and what overwriting would remove."""
    return ways_out(samples_made(output), "the old content")


def read_made_from(folder: Path) -> dict[str, Any] | None:
    """What the job in `folder` is made from, None where it does not say; WorkError if that is damaged."""
    path = folder / MADE_FROM
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise WorkError(f"{path} is damaged ({type(error).__name__}: {error}); {anew(folder)}") from None
    if not isinstance(record, dict) or record != sealed(record):
        raise WorkError(f"{path} is damaged: it differs from its own SHA-256; {anew(folder)}")
    if record.get("format") != MADE_FROM_VERSION:
        raise WorkError(
            f"{path} has format {record.get('format')}; this version reads {MADE_FROM_VERSION}; "
            f"{anew(folder)}"
        )
    return record


def find_samples(source: Path) -> list[Samples]:
    """List the finished samples in `source` or in the folders right below it; UserError if there are none."""
    if (source / SAMPLES).is_file():
        return [Samples.read(source)]
    folders = [folder for folder in published(source) if (folder / SAMPLES).is_file()]
    if not folders:
        expected = f"a folder of samples (with {SAMPLES}), or one of such folders{instead(source)}"
        raise UserError("source", source, expected)
    return [Samples.read(folder) for folder in folders]
