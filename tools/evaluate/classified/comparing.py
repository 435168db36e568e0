"""Compare features of generated images with those of real ones: distances and neighbours, with intervals."""

from __future__ import annotations

import numpy as np

from tools.evaluate import measures
from tools.evaluate.features.halves import Halves, width_by_halves
from tools.evaluate.features.neighbours import near
from tools.evaluate.jackknife import BLOCKS, LEAST, blocks_of, half_width, means_without
from tools.runs import score_names as names

NEIGHBOURS = 3  # k of precision and recall, as in the paper
MANIFOLD, FEW = "manifold", "few generated"  # subsets of real and of generated images for these
HALVES, MADE = "real halves", "generated"  # those for Fréchet distances


def compare(
    generated: np.ndarray, train: np.ndarray, heldout: np.ndarray, *, count: int, draws: int, seed: int
) -> dict[str, float]:
    """Compare features (n, d) of generated images with real ones; every mean is over `draws` subsets.

    Fréchet distances: generated against real, and real against other real ones, all sets of one size.
    Precision, recall, nearest distance: of generated and of held-out images against training ones, for the
    first two with equally many on all sides.  count: samples on each side of a Fréchet distance at most.
    """
    real = np.concatenate([train, heldout])
    rows: list[dict[str, float]] = []
    size = min(count, len(generated), len(real) // 2)
    few = min(len(generated), len(train), len(heldout))
    for draw in range(draws):

        def some(features: np.ndarray, number: int, purpose: str, draw: int = draw) -> np.ndarray:
            return features[measures.subset(len(features), number, (draw,), seed, purpose)]

        row: dict[str, float] = {}
        if size > 1:
            both = some(real, 2 * size, HALVES)
            row[names.FRECHET] = measures.frechet(some(generated, size, MADE), both[:size])
            row[names.real(names.FRECHET)] = measures.frechet(both[size:], both[:size])
        if few > NEIGHBOURS:
            manifold, made = some(train, few, MANIFOLD), some(generated, few, FEW)
            unseen = some(heldout, few, "few held out")
            row[names.PRECISION], row[names.RECALL] = measures.precision_recall(made, manifold, NEIGHBOURS)
            row[names.real(names.PRECISION)], row[names.real(names.RECALL)] = measures.precision_recall(
                unseen, manifold, NEIGHBOURS
            )
        rows.append(row)
    result = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    result |= neighbour_intervals(generated, train, few, draws=draws, seed=seed)
    result |= frechet_interval(generated, real, size, draws=draws, seed=seed)
    result |= {"frechet_count": size, "neighbour_count": few}
    if len(heldout):
        each = measures.nearest_distances(generated, train)
        result[names.NEAREST] = float(each.mean())
        result[names.interval(names.NEAREST)] = measures.bootstrap_interval(each, seed)
        result[names.real(names.NEAREST)] = measures.nearest_distance(heldout, train)
    return result


def neighbour_intervals(
    generated: np.ndarray, train: np.ndarray, count: int, *, draws: int, seed: int
) -> dict[str, float]:
    """Return half the widths of the 95 % intervals of precision and recall of `compare`.

    A block of generated images is left out of all subsets at once; halves are likewise the same in all.
    count: of a subset; {} for under 200.
    """
    if count < LEAST:
        return {}
    block, halves = blocks_of(len(generated), seed), Halves.of(len(generated), len(train), seed)
    without, apart = [], []
    for draw in range(draws):
        rows = measures.subset(len(generated), count, (draw,), seed, FEW)
        real = measures.subset(len(train), count, (draw,), seed, MANIFOLD)
        made, manifold = generated[rows].astype(np.float32), train[real].astype(np.float32)
        found = near(made, manifold, halves.some(rows, real), k=NEIGHBOURS)
        without.append(means_without(found.inside, block[rows]))
        apart.append(found.recall_apart)
    return {
        names.interval(names.PRECISION): half_width(np.mean(without, axis=0)),
        names.interval(names.RECALL): width_by_halves(np.mean(apart, axis=0), count),
    }


def frechet_interval(
    generated: np.ndarray, real: np.ndarray, count: int, *, draws: int, seed: int
) -> dict[str, float]:
    """Return the same of the Fréchet distance."""
    if count < LEAST:
        return {}
    block, without = blocks_of(len(generated), seed), []
    for draw in range(draws):
        rows = measures.subset(len(generated), count, (draw,), seed, MADE)
        half = real[measures.subset(len(real), 2 * count, (draw,), seed, HALVES)[:count]]
        rest = [generated[rows[block[rows] != left_out]] for left_out in range(BLOCKS)]
        without.append([measures.frechet(made, half) for made in rest])
    return {names.interval(names.FRECHET): half_width(np.mean(without, axis=0))}
