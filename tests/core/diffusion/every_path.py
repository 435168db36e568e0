"""The paths that tests walk, and predictions with the levels that they need."""

from __future__ import annotations

from typing import get_args

from torch import Tensor

from core.diffusion.paths.path import Path, PathName
from core.diffusion.predictions import Before, Prediction, level_before

PATHS: tuple[PathName, ...] = tuple(name for name in get_args(PathName) if name != "ddpm_file")
CHAINS = tuple(name for name in PATHS if name.startswith("ddpm_"))
KINDS: tuple[Prediction, ...] = get_args(Prediction)


def before(path: Path, t: Tensor) -> Before:
    """Return the level before, for posterior_mean; on other paths than chains any one that is lower."""
    if path.num_steps is not None:
        return level_before(path, t)
    return path.alpha(0.9 * t), path.sigma(0.9 * t)
