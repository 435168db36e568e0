"""Calculate scores from the classifier's outputs for all samples, and draw the pictures beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.media.pictures import choose_rows, image_grid, write_png
from tools.evaluate import copies
from tools.evaluate.classified import looks
from tools.evaluate.classified.comparing import compare
from tools.evaluate.classified.real_looks import REAL_CLIPS, REAL_IMAGES, Side
from tools.evaluate.classified.verdicts import (
    AGREEING,
    ALIKE,
    MADE_CLIPS,
    MADE_IMAGES,
    NEAREST,
    PSNR,
    Verdicts,
)
from tools.evaluate.decoded import MOST, decoded_noise
from tools.evaluate.judge import FEATURES
from tools.evaluate.measures import Motion, bootstrap_interval, frechet, motion, ratio
from tools.runs import rulers
from tools.runs import score_names as names

Floats = NDArray[np.float64]
PICTURE = "real_images.png"


def of_images(said: Verdicts, *, count: int, draws: int, seed: int) -> dict[str, float]:
    """Return scores of generated images beside real ones.  count, draws, seed: as of `compare`."""
    train, heldout = said.of_split(REAL_IMAGES, "features")
    made = said.whole(MADE_IMAGES, "features").astype(np.float64)
    scores = agreement(names.CLASS_AGREEMENT, said, MADE_IMAGES, REAL_IMAGES, seed)
    scores |= compare(made, train, heldout, count=count, draws=draws, seed=seed)
    return scores | {"images": len(made), "heldout_images": len(heldout)}


def warnings_of(scores: Mapping[str, Any]) -> dict[str, str]:
    """Return a warning where a Fréchet distance is of too few images for its covariance, {} elsewhere."""
    if names.FRECHET not in scores:
        return {}
    return rulers.warning_of_few(scores["frechet_count"], FEATURES + 1, "images", names.FRECHET)


def of_clips(said: Verdicts, seed: int) -> dict[str, float]:
    """Return scores of generated clips beside real ones."""
    scores = agreement(names.CLIP_AGREEMENT, said, MADE_CLIPS, REAL_CLIPS, seed)
    split = [said.of_split(REAL_CLIPS, name) for name in (looks.FIRST, looks.SECOND)]
    real = motion(*(np.concatenate(each) for each in split))
    made = motion(*(said.whole(MADE_CLIPS, name) for name in (looks.FIRST, looks.SECOND)))
    scores |= motion_ratios(made, real, seed)
    return scores | {"clips": said.made[MADE_CLIPS].count, "heldout_clips": len(split[0][1])}


def agreement(name: str, said: Verdicts, made: str, real: str, seed: int) -> dict[str, float]:
    """Return the share of samples that show their label, nan if that is not known, with its interval.

    Beside it that of held-out real ones.
    """
    each, (_, heldout) = said.whole(made, AGREEING), said.of_split(real, AGREEING)
    share = float(each.mean()) if len(each) else math.nan
    found = {name: share}
    if math.isfinite(share):
        found[names.interval(name)] = bootstrap_interval(each, seed)
    return found | {names.real(name): float(heldout.mean()) if len(heldout) else math.nan}


def motion_ratios(made: Motion, real: Motion, seed: int) -> dict[str, float]:
    """Return motion of generated clips over that of real ones; intervals are of the generated ones' part."""
    found = {names.MOTION: ratio(made.speed, real.speed), names.JERK: ratio(made.jerk, real.jerk)}
    parts = {names.MOTION: (made.speeds, real.speed), names.JERK: (made.jerks, real.jerk)}
    for name, (each, scale) in parts.items():
        if math.isfinite(found[name]):
            found[names.interval(name)] = bootstrap_interval(each, seed) / scale
    return found


def of_copies(said: Verdicts, seed: int) -> tuple[dict[str, float], list[dict[str, Any]]]:
    """Return the share of near-copies, of held-out pictures too, and the closest pairs, which are drawn."""
    training = said.images.train
    if not len(training):
        return {}, []
    number = said.whole(MADE_IMAGES, NEAREST).astype(np.int64)
    found = copies.Nearest(number, said.whole(MADE_IMAGES, ALIKE))
    unseen = said.of_split(REAL_IMAGES, ALIKE)[1]
    heldout = copies.Nearest(np.zeros(len(unseen), np.int64), unseen) if len(unseen) else None
    pairs, samples = copies.closest(found), said.made[MADE_IMAGES]
    made = [samples.some(range(pair["sample"], pair["sample"] + 1))[0] for pair in pairs]
    copies.draw(made, training.pixels(pair["training"] for pair in pairs), said.output)
    return copies.shares(found, heldout, seed), pairs


def beside_autoencoder(said: Verdicts, autoencoder: str, *, count: int, seed: int) -> dict[str, float]:
    """Return the PSNR of held-out images, and Fréchet distances to them: of generated ones, and of noise that
    was decoded.

    What is not nearer than the noise shows nothing that the denoiser has learned. All sets are of one size.
    """
    heldout, (_, psnrs) = said.images.heldout, said.of_split(REAL_IMAGES, PSNR)
    if not autoencoder or not len(heldout):
        return {}
    found, made = {names.PSNR: float(psnrs.mean())}, said.whole(MADE_IMAGES, "features").astype(np.float64)
    size = min(count, len(heldout), len(made))
    if size < 2:
        return found
    shown = np.stack(heldout.pixels(range(min(MOST, len(heldout)))))
    noise = looks.frames_in(
        looks.of_images(decoded_noise(Path(autoencoder), shown, size, seed))[looks.INPUTS]
    )
    real = said.of_split(REAL_IMAGES, "features")[1][:size]
    found[names.FRECHET_HELDOUT] = frechet(made[:size], real)
    found[names.FRECHET_NOISE] = frechet(said.judge.features(noise), real)
    return found


def draw_heldout(heldout: Side, output: Path) -> None:
    """Draw some held-out images, by class."""
    if len(heldout):
        labels, data = heldout.labels, heldout.real.data
        rows = [row for _, numbers in choose_rows(labels, 10, 10) for row in numbers]
        pixels = np.stack(heldout.pixels(rows))
        write_png(output / PICTURE, image_grid(pixels, labels[rows], data.manifest.classes))
