"""What a demo on a folder trains otherwise than the recipes of the digits say."""

from __future__ import annotations

COMPRESSION = 4  # of space and time: in time half that of the digits, whose motion is simpler
AUTOENCODER = {"model.temporal_compression": COMPRESSION, "model.channel_multipliers": "[1,1,1]"}

ENCODER_GROUP, TRAIN_GROUP = 8, 16  # samples of the smallest shape in a group of a step
FEWEST = 4  # of any shape


def group_multiple(ranks: int) -> int:
    """Return what the samples of a group are a multiple of: what ranks share evenly, at least FEWEST."""
    return ranks * -(-FEWEST // ranks)
