"""The alignment of a run's network with the features of its source."""

from __future__ import annotations

import math

from core.diffusion.alignment.aligned import Alignment
from core.diffusion.alignment.config import AlignmentConfig, block_of, last_step
from core.diffusion.objectives.config import ObjectiveConfig
from core.errors import below
from core.progress import size
from data.loading.sources.kinds import LatentFacts
from models.denoisers.network import DenoiserConfig
from models.weights import count_numbers
from tools.train.config import DataConfig

FEATURE_BYTES = 2  # of a number, in a batch


def alignment_of(
    data: DataConfig, config: AlignmentConfig, model: DenoiserConfig, facts: LatentFacts, steps: int
) -> Alignment | None:
    """Return what a run of so many steps aligns; None where it takes no features."""
    if data.features == "none":
        return None
    assert facts.picture_encoder is not None
    widths = model.hidden_widths
    with below("objective.alignment"):
        width = widths[block_of(config, len(widths))]
    return Alignment(config, len(widths), width, int(facts.picture_encoder["width"]), steps)


def feature_steps(objective: ObjectiveConfig, steps: int) -> int | None:
    """Return how many first steps of a run take features, as `Objective.own_steps` has it; None is all."""
    return None if objective.weighting == "learned" else last_step(objective.alignment, steps)


def feature_bytes(facts: LatentFacts) -> list[int]:
    """Return the bytes of a sample's features in each bucket, or of the pictures that they are made of."""
    if facts.picture_shapes:
        return [math.prod(shape) for shape in facts.picture_shapes]
    return [FEATURE_BYTES * math.prod(shape) for shape in facts.feature_shapes]


def describe(alignment: Alignment, facts: LatentFacts) -> str:
    """Say what is aligned with what, by how many parameters, and what features take."""
    name, config = (facts.picture_encoder or {}).get("class", "features"), alignment.config
    parameters = count_numbers(alignment.projector)
    end = "" if alignment.end is None else f", until step {alignment.end}"
    return (
        f"alignment: block {alignment.block + 1} of {alignment.blocks} with {name}, "
        f"weight {config.weight:g}{end}; projector {config.projector} of {parameters:,} parameters, not "
        f"averaged; features of at most {size(max(feature_bytes(facts)))} a sample"
    )
