"""The settings of the alignment with a picture encoder's features."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from core.config.settings import setting
from core.errors import UserError

ProjectorName = Literal["mlp", "conv"]


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig:
    """Alignment of a block with picture features, in runs with data.features."""

    weight: float = setting(
        0.5, "weight of the alignment loss relative to the prediction loss; 0 only measures it", low=0
    )
    block: int = setting(
        0,
        "block whose tokens are aligned, counted from 1; 0 takes the one at a third of the depth "
        "(published: 4 of 12, 8 of 24, 8 of 28)",
        low=0,
    )
    projector: ProjectorName = setting(
        "mlp",
        "projector from tokens to features: mlp, three layers applied to each token (REPA); conv, one 3x3"
        " convolution (iREPA)",
    )
    projector_width: int = setting(2048, "mlp: width of the two hidden layers", low=1)
    spatial_norm: bool = setting(
        False,
        "normalise features over the patches of a picture: subtract the mean, divide by the standard "
        "deviation (iREPA)",
    )
    spatial_mean: float = setting(1.0, "spatial_norm: share of the mean that is subtracted", low=0, high=1)
    until: float = setting(
        0.0,
        "when the alignment ends, since it slows down late training (HASTE): a share of trainer.steps if "
        "below 1, else a step; 0 is never",
        low=0,
    )
    fall: Literal["cut", "linear", "cosine"] = setting(
        "cut", "how the weight reaches 0 at `until`: abruptly, or by falling from the first step on"
    )

    def __post_init__(self) -> None:
        if self.until >= 1 and self.until % 1:
            raise UserError("until", self.until, "a whole number of steps, or a share below 1")
        if not self.until and self.fall != "cut":
            raise UserError("fall", self.fall, "cut with until=0, since the weight never ends")

    @property
    def depends_on_steps(self) -> bool:
        """Whether a step's weight depends on how many steps the run has."""
        return 0 < self.until < 1


def last_step(config: AlignmentConfig, steps: int) -> int | None:
    """Return the number of steps with alignment in a run of `steps`; None where it never ends."""
    if not config.until:
        return None
    return max(1, round(config.until * steps)) if config.until < 1 else int(config.until)


def weight_at(config: AlignmentConfig, step_index: int, steps: int) -> float:
    """Return the weight of the alignment in a step, which is counted from 0."""
    end = last_step(config, steps)
    if end is None:
        return config.weight
    if step_index >= end:
        return 0.0
    place = step_index / end
    share = {"cut": 1.0, "linear": 1 - place, "cosine": (1 + math.cos(math.pi * place)) / 2}[config.fall]
    return config.weight * share


def block_of(config: AlignmentConfig, blocks: int) -> int:
    """Return the aligned block of so many, counted from 0; UserError (`block`) where there is no such."""
    if config.block > blocks:
        raise UserError("block", config.block, f"at most {blocks}, the blocks of the network")
    return (config.block or max(1, blocks // 3)) - 1
