"""Score images or clips by a published network, against a dataset or published statistics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.distributed.device_choice import own_device
from core.progress import Progress, say
from data.dataset.index import Dataset
from tools.evaluate.extractors.extractor import Extractor, Pixels, Seen
from tools.evaluate.extractors.kinds import KINDS
from tools.evaluate.real_samples import Shape, batched, real_pixels
from tools.runs import rulers
from tools.runs.sample_files import prompts_of
from tools.runs.samples import Samples


@dataclass(frozen=True)
class Comparison:
    """Settings of `evaluate` by the same names.

    real: raw dataset, of which `most_real` samples are read, clips at `fps` (0: their own) and every
    stride-th frame; "" for `reference`, a file of published statistics.
    """

    extractor: str
    extractor_weights: str
    real: str
    reference: str
    most_real: int
    seed: int
    batch: int
    fps: float
    stride: int
    device: str


def scores_of(samples: Samples, asked: Comparison, of: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of scores.json.  of: hashes of the samples and of what is beside them."""
    extractor = KINDS[asked.extractor](Path(asked.extractor_weights), own_device(asked.device))
    what = "clips" if extractor.of_clips else "images"
    made = extractor.see(_counted(samples.batches(asked.batch), samples.count, f"see generated {what}"))
    found, beside = _against(extractor, made, samples, asked, of)
    found |= _beside_texts(extractor, made, samples, asked.seed)
    found[what] = samples.count
    found |= extractor.singular(samples.count, what, "the distance")
    records = rulers.of_samples([samples], {**extractor.ruler, **beside})
    return {**found, rulers.OF: dict(of), **records}


def _against(
    extractor: Extractor, made: Seen, samples: Samples, asked: Comparison, of: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return scores against statistics or real samples, and what the ruler says of these."""
    if asked.reference:
        found = extractor.scores_by_statistics(made, Path(asked.reference), asked.seed)
        return found, {"reference_sha256": of["reference"]}
    shape = Shape(samples.frames, samples.height, samples.width)
    data, rate = Dataset(Path(asked.real)), {"fps": asked.fps, "stride": asked.stride}
    pixels = real_pixels(data, shape, asked.most_real, seed=asked.seed, fps=asked.fps, stride=asked.stride)
    real = extractor.see(batched(pixels, asked.batch))
    found = extractor.scores(made, real, asked.seed) | {"reference_count": real.moments.count}
    rule: dict[str, Any] = {"real_resize": "bicubic to cover, centre crop"}
    if extractor.of_clips:
        rule |= rate
    return found, {"real": of["real"], "most_real": asked.most_real, "seed": asked.seed, **rule}


def _beside_texts(extractor: Extractor, made: Seen, samples: Samples, seed: int) -> dict[str, Any]:
    """Return scores beside the prompts of samples, as far as network and samples know texts."""
    if not extractor.of_texts:
        return {}
    texts = prompts_of(samples.listed) if "files" in samples.record else []
    if any(texts):
        return extractor.text_scores(made, texts, seed)
    if samples.record.get("prompts"):
        say("which sample has which prompt is kept for single files alone (files.kind): no score of both")
    return {}


def _counted(batches: Iterable[Pixels], count: int, what: str) -> Iterator[Pixels]:
    """Yield batches with a line of progress."""
    with Progress(count, what) as progress:
        for pixels in batches:
            yield pixels
            progress.advance(len(pixels))
