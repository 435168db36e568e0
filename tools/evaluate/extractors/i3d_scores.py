"""FVD (Unterthiner et al. 2018): the Fréchet distance of clips on features of I3D."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from core.errors import UserError
from models.extractors import i3d
from tools.evaluate.extractors.extractor import (
    FEATURES,
    UNKNOWN,
    Extractor,
    Numbers,
    Pixels,
    Seen,
    distance_scores,
    features_of,
)
from tools.evaluate.moments import Reference, read_reference
from tools.runs import score_names as names

FORMULAS = 1  # version of the measures, in rulers


@dataclass(frozen=True)
class I3DScores(Extractor):
    """I3D on a device."""

    network: i3d.I3D
    device: torch.device
    of_clips: ClassVar[bool] = True

    @property
    def ruler(self) -> dict[str, Any]:
        return {
            "extractor": "i3d",
            **UNKNOWN,
            "extractor_sha256": self.network.sha256,
            "precision": "float32",
            "resize": "to 224x224, by the file itself",
            "formulas": FORMULAS,
        }

    @property
    def fewest(self) -> int:
        return i3d.WIDTH

    @property
    def widths(self) -> dict[str, int]:
        return {FEATURES: i3d.WIDTH}

    def numbers(self, batch: Pixels) -> Numbers:
        """Show clips to the network."""
        return features_of(self.network, batch, self.device)

    def scores(self, made: Seen, real: Seen, seed: int) -> dict[str, Any]:
        """Return FVD of generated clips against real ones."""
        return distance_scores(names.FVD, made, Reference.of(real.moments), seed)

    def scores_by_statistics(self, made: Seen, path: Path, seed: int) -> dict[str, Any]:
        """Return FVD."""
        return distance_scores(names.FVD, made, read_reference(path, i3d.WIDTH), seed)


def open_extractor(path: Path, device: torch.device) -> I3DScores:
    """Load the TorchScript file."""
    if not path.is_file():
        raise UserError("extractor_weights", path, "the TorchScript file i3d_torchscript.pt")
    return I3DScores(i3d.load(path, "extractor_weights").to(device), device)
