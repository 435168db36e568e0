"""What `sample` wrote, as its readers find it: the manifest samples.json and the arrays of samples.npz."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.errors import UserError, WorkError
from core.files import instead

SAMPLES, ARRAYS = "samples.json", "samples.npz"


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

    def load(self) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        """Return pixels, (N, H, W, 3) or (N, T, H, W, 3), and labels (N,), -1 for no class."""
        with np.load(self.folder / ARRAYS, allow_pickle=False) as arrays:
            return arrays["arr_0"], arrays["labels"].astype(np.int64)


def find_samples(source: Path) -> list[Samples]:
    """List the finished samples in `source` or in the folders right below it; UserError if there are none."""
    if (source / SAMPLES).is_file():
        return [Samples.read(source)]
    folders = sorted(path.parent for path in source.glob(f"*/{SAMPLES}"))
    if not folders:
        expected = f"a folder of samples (with {SAMPLES}), or one of such folders{instead(source)}"
        raise UserError("source", source, expected)
    return [Samples.read(folder) for folder in folders]
