"""Scores on features of DINOv2: FD-DINOv2 (Stein et al. 2023), precision and recall, density and coverage."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch

from core.errors import UserError
from models.extractors.vision import DINOV2_SIDE, DinoV2, load_dinov2
from tools.evaluate.extractors.extractor import (
    FEATURES,
    NEIGHBOURS,
    UNKNOWN,
    Extractor,
    Numbers,
    Pixels,
    Seen,
    distance_scores,
    features_of,
    neighbour_scores,
)
from tools.evaluate.features.neighbours import LEAST_SAMPLES
from tools.evaluate.moments import Reference, read_reference
from tools.runs import score_names as names

FORMULAS = 1  # version of the measures, in rulers


@dataclass(frozen=True)
class DinoV2Scores(Extractor):
    """DINOv2 on a device."""

    network: DinoV2
    device: torch.device
    least: ClassVar[int] = LEAST_SAMPLES
    of_pictures: ClassVar[tuple[str, ...]] = NEIGHBOURS

    @property
    def ruler(self) -> dict[str, Any]:
        return {
            "extractor": "dinov2",
            **UNKNOWN,
            "extractor_identity": self.network.identity,
            "precision": "float32",
            "resize": f"bicubic to {DINOV2_SIDE}x{DINOV2_SIDE}, anti-aliased",
            "formulas": FORMULAS,
        }

    @property
    def fewest(self) -> int:
        return self.network.width

    @property
    def widths(self) -> dict[str, int]:
        return {FEATURES: self.network.width}

    def numbers(self, batch: Pixels) -> Numbers:
        """Show pictures to the network."""
        return features_of(self.network, batch, self.device)

    def scores(self, made: Seen, real: Seen, seed: int) -> dict[str, Any]:
        """Return all scores of generated pictures against real ones."""
        return {
            **distance_scores(names.FD_DINOV2, made, Reference.of(real.moments), seed),
            **neighbour_scores(made, real, seed),
        }

    def scores_by_statistics(self, made: Seen, path: Path, seed: int) -> dict[str, Any]:
        """Return FD-DINOv2."""
        return distance_scores(names.FD_DINOV2, made, read_reference(path, self.network.width), seed)


def open_extractor(path: Path, device: torch.device) -> DinoV2Scores:
    """Load DINOv2 from a folder of transformers."""
    if not path.is_dir():
        raise UserError("extractor_weights", path, "a folder of DINOv2, as transformers saves it")
    return DinoV2Scores(load_dinov2(path, "extractor_weights").to(device), device)
