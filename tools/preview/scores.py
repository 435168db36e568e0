"""Scores in training: how far a fixed set of samples of each average is from real latents.

The samples have the classes and captions of real ones and noise of their own, the same every time, so two
scores differ by what was learned. Ranks exchange sums of the samples' features, never samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.distributed.outcomes import first_problem
from core.distributed.ranks import sum_over_ranks
from core.engine.network import Network
from core.metrics.rows import Metrics
from core.run.folder import EVALUATED
from tools.evaluate.moments import Moments, Reference
from tools.preview.equal_shares import Share
from tools.preview.latent_features import LatentFeatures
from tools.preview.sampled_look import Requested, SampledLook, Watched
from tools.runs import score_names as names
from tools.runs.rulers import RULER, SUBJECT
from tools.sample.generating import Maker


@dataclass(frozen=True)
class Yardstick:
    """The reference and the measure for generated samples.

    distance: of as many real samples that are not in the reference: what a perfect network would reach.
    ruler, subject: what a score says of all that.
    """

    features: LatentFeatures
    reference: Reference
    distance: float
    ruler: dict[str, Any]
    subject: dict[str, Any]


class Scores(SampledLook):
    """Takes the Fréchet distance."""

    def __init__(
        self,
        every: int,
        run: Path,
        requested: Requested,
        network: Network,
        maker: Maker,
        yardstick: Yardstick,
    ) -> None:
        super().__init__(every, run / EVALUATED, requested, network, maker)
        self._yardstick = yardstick

    def line(self, row: dict[str, Any]) -> str:
        """Format a row as `evaluation after step 500: frechet 0.9999 3.2, 0.5 of real ones`."""
        parts = {name: part for name, part in row.items() if name != "step"}
        failed = [f"{name}: {part['failed']}" for name, part in parts.items() if "failed" in part]
        if failed:
            reasons = "; ".join(failed)
            return f"warning: no evaluation after step {row['step']}, and training continues: {reasons}"
        shown = ", ".join(f"{name} {part[names.FRECHET]:.4g}" for name, part in parts.items())
        real = f"{self._yardstick.distance:.4g} of real ones"
        return f"evaluation after step {row['step']}: Fréchet distance of latents {shown}; {real}"

    def show(self, row: dict[str, Any], metrics: Metrics) -> None:
        """Show the distances in the trackers."""
        parts = {name: part for name, part in row.items() if name != "step" and "failed" not in part}
        values = {f"evaluate/{name}/{names.FRECHET}": part[names.FRECHET] for name, part in parts.items()}
        metrics.show_beside(row["step"], values)

    def see(self, share: Share, latents: Tensor) -> Tensor:
        """Return the features of this rank's own samples."""
        return self._yardstick.features.of(latents[: share.own])

    def outcome(
        self, step: int, average: str, seen: list[Tensor], problem: str, model: Watched
    ) -> dict[str, Any]:
        """Return the distance of an average's samples and what it was measured by (collective)."""
        stick = self._yardstick
        mine = Moments.about(stick.reference.mean)
        for features in seen if self.is_own and not problem else ():
            mine.add(features.cpu().numpy())
        total = sum_over_ranks(torch.from_numpy(mine.vector()).to(self.world.device))
        if told := first_problem(problem):
            return {"failed": told[1]}
        moments = mine.like(total.cpu().numpy())
        value = stick.reference.distance(moments) if math.isfinite(float(total.sum())) else math.inf
        if not math.isfinite(value):
            return {"failed": "features of samples are too large for sums"}
        return {
            names.FRECHET: value,
            names.real(names.FRECHET): stick.distance,
            "samples": moments.count,
            "reference_count": stick.reference.count,
            RULER: stick.ruler,
            SUBJECT: {"weights": average, **stick.subject},
        }
