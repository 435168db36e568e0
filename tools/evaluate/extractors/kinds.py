"""The networks of features by name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from tools.evaluate.extractors import clip_scores, dinov2_scores, i3d_scores, inception_scores
from tools.evaluate.extractors.extractor import Extractor

KINDS: dict[str, Callable[[Path, torch.device], Extractor]] = {
    "inception": inception_scores.open_extractor,
    "dinov2": dinov2_scores.open_extractor,
    "clip": clip_scores.open_extractor,
    "i3d": i3d_scores.open_extractor,
}
