"""Score images and clips by a classifier trained on the spot, beside real data that it has not seen.

Any number of workers share it: they look at the real samples, one of them trains the classifier, they show it
the samples of both sides, and one puts together what it has said.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from core.errors import WorkError
from core.files import fingerprint
from core.queue import shared_job
from core.queue.config import QueueConfig
from data.dataset.index import Dataset
from tools.evaluate.classified import looks, summing_up
from tools.evaluate.classified.real_looks import REAL_CLIPS, REAL_IMAGES, RealLooks, sides_of
from tools.evaluate.classified.verdicts import MADE_CLIPS, MADE_IMAGES, Verdicts
from tools.evaluate.judge import Judge, make_judge
from tools.evaluate.real_samples import Shape, rule_of
from tools.evaluate.shared.real_side import Real
from tools.runs import rulers
from tools.runs.samples import Samples

FORMULAS = 1  # version of the measures, in rulers


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


def share(
    samples: list[Samples],
    asked: Comparison,
    of: Mapping[str, Any],
    beside: Mapping[str, Any],
    output: Path,
    queue: QueueConfig,
    publish: Callable[[dict[str, Any]], None],
) -> None:
    """Take part in scoring samples until the scores are there; one worker hands them to `publish`.

    Held-out pictures and the closest pairs go to `output`.  of, beside: hashes of the samples, and of what is
    beside them.
    """
    # One thread: scores that do not depend on the machine, and on a busy one many small steps do not wait.
    torch.set_num_threads(1)
    made = {MADE_IMAGES if each.frames == 1 else MADE_CLIPS: each for each in samples}
    settings = {name: value for name, value in asdict(asked).items() if name not in beside}
    made_from = fingerprint({**of, **settings, "formulas": FORMULAS})

    def train(real: RealLooks) -> Judge:
        return trained(real, asked.steps, asked.seed)

    real = RealLooks(output, _sides(asked, made), made_from, train)
    shared_job.work(real, queue)

    def put_together(said: Verdicts) -> None:
        publish(_scores_of(said, asked, of, beside))

    verdicts = Verdicts(output, made, real, asked.autoencoder, made_from, put_together)
    shared_job.work(verdicts, queue)


def _sides(asked: Comparison, made: Mapping[str, Samples]) -> dict[str, Real]:
    """Return the real samples in the shapes of the generated ones."""
    data = {name: Dataset(Path(place)) for name in ("real", "heldout") if (place := getattr(asked, name))}

    def read(name: str, frames: int) -> Real:
        like = made[MADE_IMAGES if frames == 1 else MADE_CLIPS]
        shape = Shape(like.frames, like.height, like.width)
        return Real(data[name], shape, asked.most_real, asked.seed, asked.fps, asked.stride)

    there = {"images": MADE_IMAGES in made, "clips": MADE_CLIPS in made}
    return sides_of(read, **there, heldout="heldout" in data)


def trained(real: RealLooks, steps: int, seed: int) -> Judge:
    """Train the classifier on the real images that are not held out, and on frames of such clips.

    WorkError where none was readable.
    """
    frames, labels, kinds = list[torch.Tensor](), list[np.ndarray](), 0
    for name, kept in ((REAL_IMAGES, looks.INPUTS), (REAL_CLIPS, looks.LEARNT)):
        if name in real.sides:
            found = real.split(name, kept).train
            kinds += len(found)
            some, each = found.frames(kept), found.labels
            frames.append(some.flatten(0, 1) if some.ndim == 5 else some)
            labels.append(each.repeat(some.shape[1]) if some.ndim == 5 else each)
    data = next(iter(real.sides.values())).data
    if not kinds:
        raise WorkError(f"{data.folder}: no readable image or clip to compare with")
    classes = len(data.manifest.classes)
    return make_judge(torch.cat(frames), np.concatenate(labels), classes, steps=steps, seed=seed)


def _scores_of(
    said: Verdicts, asked: Comparison, of: Mapping[str, Any], beside: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the content of scores.json, and draw pictures."""
    scores: dict[str, Any] = {"heldout_unseen": bool(asked.heldout)}
    pairs: list[dict[str, Any]] = []
    if MADE_IMAGES in said.made:
        scores |= summing_up.of_images(said, count=asked.count, draws=asked.draws, seed=asked.seed)
    if MADE_CLIPS in said.made:
        scores |= summing_up.of_clips(said, asked.seed)
    if MADE_IMAGES in said.made:
        shares, pairs = summing_up.of_copies(said, asked.seed)
        beside_noise = {"count": asked.count, "seed": asked.seed}
        scores |= shares | summing_up.beside_autoencoder(said, asked.autoencoder, **beside_noise)
        summing_up.draw_heldout(said.images.heldout, said.output)
    finite = {name: value if math.isfinite(value) else None for name, value in scores.items()}
    measured = {"extractor": "classifier trained on the spot", "classifier_steps": asked.steps}
    measured |= {"extractor_sha256": said.judge_sha256, "precision": "float32"}
    measured |= rule_of(Dataset(Path(asked.real))) | {
        "resize": "bilinear to 32x32, antialiased",
        "formulas": FORMULAS,
    }
    chosen = {"seed": asked.seed, "count": asked.count, "draws": asked.draws, "most_real": asked.most_real}
    clips = {"fps": asked.fps, "stride": asked.stride}
    records = rulers.of_samples(list(said.made.values()), {**measured, **chosen, **clips, **beside})
    return {**finite, **summing_up.warnings_of(finite), rulers.PAIRS: pairs, rulers.OF: dict(of), **records}
