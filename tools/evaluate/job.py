"""Score generated samples against real data: class agreement, Fréchet distance, variety, copies, motion.

A score stands beside the same measure on real data that the classifier has not seen, nor, where a held-out
dataset is given, the generator; without that neighbour a number says little.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from core import terminal
from core.errors import UserError
from core.files import write_json
from core.run.folder import SCORES
from tools.evaluate import scored
from tools.evaluate.config import Config
from tools.runs import rulers
from tools.runs.samples import Samples, find_samples, require_one_origin

if TYPE_CHECKING:
    from tools.evaluate.judge import Judge
    from tools.evaluate.real_samples import RealSamples

NEIGHBOURS = 3  # k of precision and recall, as in the paper


def plan(config: Config) -> list[str]:
    """Say what would be compared."""
    if config.measure != "samples":
        from tools.evaluate.density import choose, opened

        asked = opened(config.source, config.real, config.density, "cpu")
        count, exact = len(choose(asked.cache, config.density.count, config.seed)), asked.trained
        named = f"{exact.weights} weights of {exact.checkpoint}"
        return [
            f"{config.measure} of {count} samples of {config.real}, under the {named}",
            f"into {config.output}",
        ]
    samples = find_samples(Path(config.source))
    require_one_origin(samples)
    found = [
        f"{s.count} {'images' if s.frames == 1 else f'clips of {s.frames} frames'} in {s.folder}, {s.origin}"
        for s in samples
    ]
    scored.require_real(config.real, config.heldout, config.autoencoder, config.reference)
    heldout = f", held out: {config.heldout or 'a fifth of it'}" * (config.extractor == "classifier")
    return [
        *found,
        f"against {config.real or config.reference}" + heldout,
        f"into {config.output}",
    ]


def run(config: Config) -> None:
    """Train the classifier, measure, write scores.json and print the table."""
    import torch

    from core.progress import counted, say
    from core.run.claim import claim
    from data.media.pictures import image_grid, write_png
    from tools.evaluate.judge import make_judge

    output = Path(config.output)
    if config.measure != "samples":
        from tools.evaluate import density

        opened = density.opened(config.source, config.real, config.density, config.device)
        contents = scored.contents(output / SCORES, dict(opened.of))
        if claim(output, config, done=SCORES, overwrite=config.overwrite, contents=contents) == "finished":
            scored.require_of(output / SCORES, dict(opened.of))
            say(f"{output}: finished before")
            return
        record = opened.measure(config.measure, output, seed=config.seed)
        write_json(output / SCORES, record)
        terminal.tell(density.table(record, config.measure), to="stdout")
        return
    samples = find_samples(Path(config.source))
    if len({s.frames > 1 for s in samples}) != len(samples):
        raise UserError("source", config.source, "at most one folder of images and one of clips")
    require_one_origin(samples)
    if config.extractor == "inception" and (len(samples) > 1 or samples[0].frames > 1):
        raise UserError("source", config.source, "one folder of images, with extractor=inception")
    beside = scored.require_real(config.real, config.heldout, config.autoencoder, config.reference)
    of = scored.describe(Path(config.source), samples, beside)  # before old scores are removed
    contents = scored.contents(output / SCORES, of)
    if claim(output, config, done=SCORES, overwrite=config.overwrite, contents=contents) == "finished":
        scored.require_of(output / SCORES, of)
        say(f"{output}: finished before")
        return
    for generated in samples:
        say(f"{generated.folder}: {counted(generated.count, 'sample')}, {generated.origin}")
    if config.extractor == "inception":
        from tools.evaluate.by_network import Comparison, scores_of

        asked = Comparison(
            weights=config.extractor_weights,
            real=config.real,
            reference=config.reference,
            most=config.most_real,
            seed=config.seed,
            batch=config.batch,
            device=config.device,
        )
        record = scores_of(samples[0], asked, of)
        write_json(output / SCORES, record)
        terminal.tell(table(record), to="stdout")
        return
    # One thread: scores that do not depend on the machine, and on a busy one many small steps do not wait.
    torch.set_num_threads(1)
    how: dict[str, Any] = {"seed": config.seed, "fps": config.fps, "stride": config.stride}
    train, heldout = read_real(config.real, config.heldout, samples, config.most_real, **how)
    judge = make_judge(train, config.steps, config.seed)
    scores: dict[str, float] = {"heldout_unseen": bool(config.heldout)}
    scores |= score(judge, samples, train, heldout, count=config.count, draws=config.draws, seed=config.seed)
    if config.autoencoder and len(heldout.images):
        from tools.evaluate.decoded import beside_noise, reconstruction_psnr

        scores["psnr_db"] = reconstruction_psnr(Path(config.autoencoder), heldout.images)
        made = [s.load()[0] for s in samples if s.frames == 1]
        seen = judge, made, heldout, Path(config.autoencoder)
        scores |= beside_noise(*seen, count=config.count, seed=config.seed)
    if len(heldout.images):
        write_png(
            output / "real_images.png", image_grid(heldout.images, heldout.image_labels, heldout.classes)
        )
    finite = {name: value if math.isfinite(value) else None for name, value in scores.items()}
    measured = {"extractor": "classifier trained on the spot", "classifier_steps": config.steps}
    chosen = {
        "seed": config.seed,
        "count": config.count,
        "draws": config.draws,
        "most_real": config.most_real,
    }
    clips = {"fps": config.fps, "stride": config.stride}
    records = rulers.of_samples(samples, {**measured, **chosen, **clips, **beside})
    write_json(output / SCORES, {**finite, rulers.OF: of, **records})
    terminal.tell(table(finite), to="stdout")


def read_real(
    place: str, heldout: str, samples: list[Samples], most: int, *, seed: int, fps: float, stride: int
) -> tuple[RealSamples, RealSamples]:
    """Return real data in the samples' shapes: what is learned from, and what is held out.

    heldout: the place of unseen data; "" takes a fifth of the other.  most: images and clips that are read.
    """
    from data.dataset.index import Dataset
    from tools.evaluate.real_samples import Shape, read

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
    from tools.evaluate.copies import share_of_copies
    from tools.evaluate.measures import motion, ratio

    scores: dict[str, float] = {}
    for generated in sorted(samples, key=lambda samples: samples.frames):
        pixels, labels = generated.load()
        if generated.frames == 1:
            scores["class_agreement"] = judge.agreement(pixels, labels)
            scores["reference_accuracy"] = judge.agreement(heldout.images, heldout.image_labels)
            features = (judge.features(images) for images in (pixels, train.images, heldout.images))
            scores |= compare(*features, count=count, draws=draws, seed=seed)
            scores["copies"] = share_of_copies(pixels, train.images)
            if len(heldout.images):
                scores["copies_real"] = share_of_copies(heldout.images, train.images)
            scores |= {"images": len(pixels), "heldout_images": len(heldout.images)}
        else:
            scores["clip_agreement"] = judge.agreement(pixels, labels)
            scores["clip_reference_accuracy"] = judge.agreement(heldout.clips, heldout.clip_labels)
            made, real = motion(pixels), motion(np.concatenate([train.clips, heldout.clips]))
            scores["motion_ratio"] = ratio(made.speed, real.speed)
            scores["jerk_ratio"] = ratio(made.jerk, real.jerk)
            scores |= {"clips": len(pixels), "heldout_clips": len(heldout.clips)}
    return scores


def compare(
    generated: np.ndarray, train: np.ndarray, heldout: np.ndarray, *, count: int, draws: int, seed: int
) -> dict[str, float]:
    """Compare features (n, d) of generated images with real ones; every mean is over `draws` subsets.

    Fréchet distances: generated against real, and real against other real ones, all sets of one size.
    Precision, recall, nearest distance: of generated and of held-out images against training ones, for the
    first two with equally many on all sides.  count: samples on each side of a Fréchet distance at most.
    """
    from tools.evaluate import measures

    real = np.concatenate([train, heldout])
    rows: list[dict[str, float]] = []
    size = min(count, len(generated), len(real) // 2)
    few = min(len(generated), len(train), len(heldout))
    for draw in range(draws):

        def some(features: np.ndarray, number: int, purpose: str, draw: int = draw) -> np.ndarray:
            return features[measures.subset(len(features), number, (draw,), seed, purpose)]

        row: dict[str, float] = {}
        if size > 1:
            both = some(real, 2 * size, "real halves")
            row["frechet"] = measures.frechet(some(generated, size, "generated"), both[:size])
            row["frechet_real"] = measures.frechet(both[size:], both[:size])
        if few > NEIGHBOURS:
            manifold, made = some(train, few, "manifold"), some(generated, few, "few generated")
            unseen = some(heldout, few, "few held out")
            row["precision"], row["recall"] = measures.precision_recall(made, manifold, NEIGHBOURS)
            row["precision_real"], row["recall_real"] = measures.precision_recall(
                unseen, manifold, NEIGHBOURS
            )
        rows.append(row)
    result = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
    result |= {"frechet_count": size, "neighbour_count": few}
    if len(heldout):
        result["nearest"] = measures.nearest_distance(generated, train)
        result["nearest_real"] = measures.nearest_distance(heldout, train)
    return result


def table(scores: Mapping[str, Any]) -> str:
    """Lay the scores out for a terminal, each beside the one of held-out real data where there is one."""
    beside = {"class_agreement": "reference_accuracy", "clip_agreement": "clip_reference_accuracy"}
    lines = [f"{'score':18}{'generated':>12}{'real':>12}"]
    shown = set(beside.values())
    for name, value in scores.items():
        if name in shown or name.endswith("_real") or not isinstance(value, int | float):
            continue
        if isinstance(value, bool):
            continue
        real = scores.get(beside.get(name, f"{name}_real"))
        lines.append(f"{name:18}{_number(value):>12}{_number(real):>12}".rstrip())
    if not scores.get("heldout_unseen", True):
        lines.append("the real images compared with were also seen by the generator: no heldout= was given")
    if warning := scores.get("warning"):
        lines.append(str(warning))
    return "\n".join(lines)


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return str(value) if isinstance(value, int) else f"{value:.4f}"
