"""Score images and clips by a classifier trained on the spot, beside real data that it has not seen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.dataset.index import Dataset
from data.media.pictures import image_grid, write_png
from tools.evaluate import copies, measures
from tools.evaluate.decoded import beside_noise, reconstruction_psnr
from tools.evaluate.features.halves import Halves, width_by_halves
from tools.evaluate.features.neighbours import near
from tools.evaluate.jackknife import BLOCKS, LEAST, blocks_of, half_width, means_without
from tools.evaluate.judge import Judge, make_judge
from tools.evaluate.measures import Motion, bootstrap_interval, motion, ratio
from tools.evaluate.real_samples import RealSamples, Shape, read, rule_of
from tools.runs import rulers
from tools.runs import score_names as names
from tools.runs.samples import Samples

FORMULAS = 1  # version of the measures, in rulers
NEIGHBOURS = 3  # k of precision and recall, as in the paper
MANIFOLD, FEW = "manifold", "few generated"  # subsets of real and of generated images for these
HALVES, MADE = "real halves", "generated"  # those for Fréchet distances


@dataclass(frozen=True)
class Comparison:
    """Settings of `evaluate` by the same names.  steps: of the classifier's training."""

    real: str
    heldout: str
    autoencoder: str
    steps: int
    seed: int
    count: int
    draws: int
    most_real: int
    fps: float
    stride: int


def scores_of(
    samples: list[Samples],
    asked: Comparison,
    of: Mapping[str, Any],
    beside: Mapping[str, Any],
    output: Path,
) -> dict[str, Any]:
    """Return the content of scores.json; held-out pictures and the closest pairs go to `output`.

    of, beside: hashes of the samples, and of what is beside them.
    """
    # One thread: scores that do not depend on the machine, and on a busy one many small steps do not wait.
    torch.set_num_threads(1)
    clips = {"fps": asked.fps, "stride": asked.stride}
    how: dict[str, Any] = {"seed": asked.seed, **clips}
    train, heldout = read_real(asked.real, asked.heldout, samples, asked.most_real, **how)
    judge = make_judge(train, asked.steps, asked.seed)
    scores: dict[str, float] = {"heldout_unseen": bool(asked.heldout)}
    scores |= score(judge, samples, train, heldout, count=asked.count, draws=asked.draws, seed=asked.seed)
    made = [s.load()[0] for s in samples if s.frames == 1]
    pairs: list[dict[str, Any]] = []
    for images in made if len(train.images) else []:
        shares, pairs = copies.report(images, train.images, heldout.images, output, asked.seed)
        scores |= shares
    if asked.autoencoder and len(heldout.images):
        autoencoder = Path(asked.autoencoder)
        scores[names.PSNR] = reconstruction_psnr(autoencoder, heldout.images)
        scores |= beside_noise(judge, made, heldout, autoencoder, count=asked.count, seed=asked.seed)
    if len(heldout.images):
        write_png(
            output / "real_images.png", image_grid(heldout.images, heldout.image_labels, heldout.classes)
        )
    finite = {name: value if math.isfinite(value) else None for name, value in scores.items()}
    measured = {"extractor": "classifier trained on the spot", "classifier_steps": asked.steps}
    measured |= rule_of(Dataset(Path(asked.real))) | {
        "resize": "bilinear to 32x32, antialiased",
        "formulas": FORMULAS,
    }
    chosen = {"seed": asked.seed, "count": asked.count, "draws": asked.draws, "most_real": asked.most_real}
    records = rulers.of_samples(samples, {**measured, **chosen, **clips, **beside})
    return {**finite, rulers.PAIRS: pairs, rulers.OF: dict(of), **records}


def read_real(
    place: str, heldout: str, samples: list[Samples], most: int, *, seed: int, fps: float, stride: int
) -> tuple[RealSamples, RealSamples]:
    """Return real data in the samples' shapes: what is learned from, and what is held out.

    heldout: the place of unseen data; "" takes a fifth of the other.  most: images and clips that are read.
    """
    shapes = [Shape(s.frames, s.height, s.width) for s in samples]
    image = next((shape for shape in shapes if shape.frames == 1), None)
    clip = next((shape for shape in shapes if shape.frames > 1), None)
    more: dict[str, Any] = {"seed": seed, "fps": fps, "stride": stride}
    real = read(Dataset(Path(place)), image, clip, most, **more)
    if not heldout:
        return real.split(seed)
    return real, read(Dataset(Path(heldout)), image, clip, most, **more)


def score(
    judge: Judge,
    samples: list[Samples],
    train: RealSamples,
    heldout: RealSamples,
    *,
    count: int,
    draws: int,
    seed: int,
) -> dict[str, float]:
    """Return every score that the samples and the real data allow.  count, draws, seed: as of `compare`."""
    scores: dict[str, float] = {}
    for generated in sorted(samples, key=lambda samples: samples.frames):
        pixels, labels = generated.load()
        if generated.frames == 1:
            scores |= agreement(names.CLASS_AGREEMENT, judge, pixels, labels, seed)
            scores[names.real(names.CLASS_AGREEMENT)] = judge.agreement(heldout.images, heldout.image_labels)
            features = (judge.features(images) for images in (pixels, train.images, heldout.images))
            scores |= compare(*features, count=count, draws=draws, seed=seed)
            scores |= {"images": len(pixels), "heldout_images": len(heldout.images)}
        else:
            scores |= agreement(names.CLIP_AGREEMENT, judge, pixels, labels, seed)
            scores[names.real(names.CLIP_AGREEMENT)] = judge.agreement(heldout.clips, heldout.clip_labels)
            made, real = motion(pixels), motion(np.concatenate([train.clips, heldout.clips]))
            scores |= motion_ratios(made, real, seed)
            scores |= {"clips": len(pixels), "heldout_clips": len(heldout.clips)}
    return scores


def agreement(name: str, judge: Judge, pixels: np.ndarray, labels: np.ndarray, seed: int) -> dict[str, float]:
    """Return the share of samples that show their label, nan if that is not known, with its interval."""
    each = judge.agreeing(pixels, labels)
    if not len(each):
        return {name: math.nan}
    return {name: float(each.mean()), names.interval(name): bootstrap_interval(each, seed)}


def motion_ratios(made: Motion, real: Motion, seed: int) -> dict[str, float]:
    """Return motion of generated clips over that of real ones; intervals are of the generated ones' part."""
    found = {names.MOTION: ratio(made.speed, real.speed), names.JERK: ratio(made.jerk, real.jerk)}
    parts = {names.MOTION: (made.speeds, real.speed), names.JERK: (made.jerks, real.jerk)}
    for name, (each, scale) in parts.items():
        if math.isfinite(found[name]):
            found[names.interval(name)] = bootstrap_interval(each, seed) / scale
    return found


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
