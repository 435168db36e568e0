"""Score images or clips by a published network, against a dataset or published statistics.

Any number of workers share the samples of both sides; what the network gave is stored part by part and put
together in one order, so that a score does not depend on how many there were, or on a kill.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.distributed.device_choice import own_device
from core.files import fingerprint
from core.progress import say
from core.queue import shared_job
from core.queue.config import QueueConfig
from data.dataset.index import Dataset
from models.precision import work_alike
from tools.evaluate.extractors.extractor import Extractor, Seen
from tools.evaluate.extractors.feature_units import FeatureUnits
from tools.evaluate.extractors.kinds import KINDS
from tools.evaluate.extractors.reference_pictures import ReferencePictures, pictures_of
from tools.evaluate.real_samples import Shape, nothing_readable, rule_of
from tools.evaluate.shared.number_parts import MADE, REAL, NumberParts
from tools.evaluate.shared.real_side import Real
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
    threads: int


def share(
    samples: Samples,
    asked: Comparison,
    of: Mapping[str, Any],
    output: Path,
    queue: QueueConfig,
    publish: Callable[[dict[str, Any]], None],
) -> None:
    """Take part in scoring samples until the scores are there; one worker hands them to `publish`.

    of: hashes of the samples and of what is beside them.
    """
    work_alike(asked.threads)
    extractor = KINDS[asked.extractor](Path(asked.extractor_weights), own_device(asked.device))
    extractor.require_enough("source", samples.folder, samples.count)
    real = _real_side(samples, asked)
    settings = {name: getattr(asked, name) for name in ("most_real", "seed", "fps", "stride", "threads")}
    made_from = fingerprint({**of, **extractor.ruler, **settings})

    def put_together(parts: NumberParts) -> None:
        publish(_scores_of(samples, extractor, real, parts, asked, of))

    units = FeatureUnits(output, extractor, samples, real, asked.batch, made_from, put_together)
    shared_job.work(units, queue)


def _real_side(samples: Samples, asked: Comparison) -> Real | ReferencePictures | None:
    """Return what the network sees beside the samples; None where statistics stand for it."""
    if not asked.real:
        return (
            pictures_of(Path(asked.reference), asked.most_real, asked.seed) if samples.frames == 1 else None
        )
    shape = Shape(samples.frames, samples.height, samples.width)
    return Real(Dataset(Path(asked.real)), shape, asked.most_real, asked.seed, asked.fps, asked.stride)


def _scores_of(
    samples: Samples,
    extractor: Extractor,
    real: Real | ReferencePictures | None,
    parts: NumberParts,
    asked: Comparison,
    of: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the content of scores.json."""
    what = "clips" if extractor.of_clips else "images"
    made = extractor.seen(parts.of(MADE))
    if isinstance(real, Real):
        found, beside = _against(extractor, made, real, parts, of)
    else:
        found, beside = _against_reference(extractor, made, real, parts, asked)
        beside["reference_sha256"] = of["reference"]
    found |= _beside_texts(extractor, made, samples, asked.seed)
    found[what] = samples.count
    found |= extractor.singular(samples.count, what, "the distance")
    records = rulers.of_samples([samples], {**extractor.ruler, **beside})
    return {**found, rulers.OF: dict(of), **records}


def _against(
    extractor: Extractor, made: Seen, real: Real, parts: NumberParts, of: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return scores against real samples, and what the ruler says of these."""
    seen = extractor.seen(parts.of(REAL), is_real=True) if len(real.rows) else None
    if seen is None or not len(seen.features):
        raise nothing_readable(real.data, real.shape)
    extractor.require_enough("real", real.data.folder, len(seen.features))
    count = {"reference_count": len(seen.features)}
    found = extractor.scores(made, seen, real.seed) | count
    rule: dict[str, Any] = {**rule_of(real.data), **count}
    if extractor.of_clips:
        rule |= {"fps": real.fps, "stride": real.stride}
    return found, {"real": of["real"], "most_real": real.most, "seed": real.seed, **rule}


def _against_reference(
    extractor: Extractor,
    made: Seen,
    pictures: ReferencePictures | None,
    parts: NumberParts,
    asked: Comparison,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return scores against published statistics, and, by the pictures beside these, all others."""
    path = Path(asked.reference)
    if pictures is None:
        if extractor.of_pictures:
            missing = ", ".join(extractor.of_pictures)
            say(f"{path} has statistics alone, without pictures: no {missing}")
        return extractor.scores_by_statistics(made, path, asked.seed), {}
    seen = extractor.seen(parts.of(REAL), is_real=True)
    extractor.require_enough("reference", path, len(seen.features))
    found = extractor.scores(made, seen, asked.seed) | {"reference_count": len(seen.features)}
    if pictures.has_statistics:
        found |= extractor.scores_by_statistics(made, path, asked.seed)
    rule = {"reference_statistics": pictures.has_statistics, "most_real": asked.most_real, "seed": asked.seed}
    return found, {**rule, "reference_count": len(seen.features)}


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
