"""Scores on embeddings of CLIP: CMMD (Jayasumana et al. 2024), and the CLIP score (Hessel et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from core.errors import UserError
from models.extractors.vision import Clip, load_clip
from tools.evaluate.extractors.extractor import (
    FEATURES,
    UNKNOWN,
    Extractor,
    Numbers,
    Pixels,
    Seen,
    features_of,
    spread_scores,
)
from tools.evaluate.features.kernels import gaussian_mmd
from tools.evaluate.measures import bootstrap_interval
from tools.runs import score_names as names

FORMULAS = 1  # version of the measures, in rulers
SCALE = 1000  # of CMMD, to make it readable
SIGMA = 10.0  # of its kernel, for embeddings of length 1
TEXTS = 256  # embedded at once


@dataclass(frozen=True)
class ClipScores(Extractor):
    """CLIP on a device."""

    network: Clip
    device: torch.device
    of_texts: ClassVar[bool] = True
    least: ClassVar[int] = 1

    @property
    def ruler(self) -> dict[str, Any]:
        side = self.network.side
        return {
            "extractor": "clip",
            **UNKNOWN,
            "extractor_identity": self.network.identity,
            "precision": "float32",
            "resize": f"bicubic to cover {side}x{side}, anti-aliased, centre crop",
            "formulas": FORMULAS,
        }

    @property
    def fewest(self) -> int:
        return 0

    @property
    def widths(self) -> dict[str, int]:
        return {FEATURES: self.network.width}

    def numbers(self, batch: Pixels) -> Numbers:
        """Show pictures to the network; embeddings are of length 1."""
        return features_of(lambda x: _unit(self.network(x)), batch, self.device)

    def scores(self, made: Seen, real: Seen, seed: int) -> dict[str, Any]:
        """Return CMMD of generated pictures against real ones."""
        found = gaussian_mmd(made.features, real.features, SIGMA, seed)
        return spread_scores(names.CMMD, found.times(SCALE))

    def scores_by_statistics(self, made: Seen, path: Path, seed: int) -> dict[str, Any]:
        """Refuse: CMMD needs the embeddings of all real pictures."""
        raise UserError(
            "reference", path, "'' with extractor=clip: CMMD needs the real pictures, real=DATASET"
        )

    def text_scores(self, made: Seen, texts: Sequence[str], seed: int) -> dict[str, Any]:
        """Return the mean over samples of 100 max(cos, 0) of a picture and its text, and its interval."""
        distinct = list(dict.fromkeys(texts))
        number = {text: row for row, text in enumerate(distinct)}
        found = [
            _unit(self.network.texts(distinct[start : start + TEXTS])).cpu().numpy()
            for start in range(0, len(distinct), TEXTS)
        ]
        embedded = np.concatenate(found)[[number[text] for text in texts]]
        each = 100 * (made.features * embedded).sum(1, dtype=np.float64).clip(0)
        interval = bootstrap_interval(each, seed)
        return {names.CLIP_SCORE: float(each.mean()), names.interval(names.CLIP_SCORE): interval}


def _unit(embedded: torch.Tensor) -> torch.Tensor:
    """Bring embeddings to length 1."""
    return torch.nn.functional.normalize(embedded, dim=1)


def open_extractor(path: Path, device: torch.device) -> ClipScores:
    """Load CLIP from a folder of transformers."""
    if not path.is_dir():
        raise UserError("extractor_weights", path, "a folder of CLIP, as transformers saves it")
    return ClipScores(load_clip(path, "extractor_weights").to(device), device)
