"""Measure the statistics of latents that no cache holds, each rank its share of the samples."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from core.distributed.ranks import World, on_every_rank
from core.progress import Progress
from data.latent.normalising import LatentSums

ROUND = 256  # samples measured between two exchanges of ranks, so that none waits long for another


def measured_sums(
    rows: np.ndarray, latents_of: Callable[[int], np.ndarray | None], world: World
) -> LatentSums | None:
    """Return the sums over the latents of these rows; None if there are none (collective: all ranks).

    Sums of samples are added in the order of their rows, so the number of ranks changes no bit.
    latents_of: encodes a row to (1, M, C, T, H, W), or returns None for one to leave out.
    """
    total: LatentSums | None = None
    with Progress(len(rows), "measure latents") as progress:
        for start in range(0, len(rows), ROUND):
            part = rows[start : start + ROUND]
            by_rank = on_every_rank(partial(_each_sums, part[world.rank :: world.size], latents_of))
            for place in range(len(part)):
                sums = by_rank[place % world.size][place // world.size]
                if sums is not None:
                    total = sums if total is None else total + sums
            progress.advance(len(part))
    return total


def _each_sums(rows: np.ndarray, latents_of: Callable[[int], np.ndarray | None]) -> list[LatentSums | None]:
    found = [latents_of(row) for row in rows.tolist()]
    return [None if latents is None else LatentSums.of(latents) for latents in found]
