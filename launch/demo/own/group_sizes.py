"""Group sizes of a demo on a folder; those of the recipes suit the digits."""

from __future__ import annotations

ENCODER_GROUP, TRAIN_GROUP = 8, 16  # of the smallest shape
FEWEST = 4  # of any shape


def group_multiple(ranks: int) -> int:
    """Return what the samples of a group are a multiple of: what ranks share evenly, at least FEWEST."""
    return ranks * -(-FEWEST // ranks)
