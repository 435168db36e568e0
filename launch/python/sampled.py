"""A training run or an export, from which samples are drawn."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from launch.python.doing import do
from tools.runs.loaded_run import LatentSpace
from tools.runs.samples import Samples


@dataclass(frozen=True)
class Sampled:
    """Samples of a run.

    pixels: (N, H, W, 3) uint8, clips (N, T, H, W, 3).  labels: (N,), -1 for no class.
    record: what `samples.json` says of them.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int64]
    record: dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A training run or an export.  space: of the latents that it was trained on, with names of classes."""

    folder: Path
    space: LatentSpace = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "space", LatentSpace.read(self.folder))

    def sample(self, output: str | Path = "", **fields: Any) -> Sampled:
        """Draw samples, bit for bit those that `longtake sample` writes with the same settings.

        output: where they are kept, and continued; "" keeps nothing.  fields: settings of `sample`.
        """
        if output:
            return self._sampled(Path(output), fields)
        with tempfile.TemporaryDirectory(prefix="longtake-") as folder:
            return self._sampled(Path(folder) / "samples", fields)

    def _sampled(self, output: Path, fields: dict[str, Any]) -> Sampled:
        do("sample", [], {"source": self.folder, "output": output, **fields})
        samples = Samples.read(output)
        return Sampled(*samples.load(), samples.record)
