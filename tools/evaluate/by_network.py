"""Score images by the published network, against a dataset or published statistics."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.distributed.device_choice import own_device
from data.dataset.index import Dataset
from tools.evaluate import published
from tools.evaluate.real_samples import real_images
from tools.runs import rulers
from tools.runs.samples import Samples


@dataclass(frozen=True)
class Comparison:
    """What images are compared with.

    weights: file of the network.  real: raw dataset, of which `most` images are read; "" for `reference`, a
    file of published statistics.  batch: pictures at once.
    """

    weights: str
    real: str
    reference: str
    most: int
    seed: int
    batch: int
    device: str


def scores_of(samples: Samples, asked: Comparison, of: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of scores.json.  of: hashes of the samples and of what is beside them."""
    extractor = published.open_extractor(Path(asked.weights), own_device(asked.device))
    batches = samples.batches(asked.batch)
    made = published.see(extractor, published.counted_batches(batches, samples.count, "see generated images"))
    if asked.reference:
        found = published.scores_by_statistics(made, Path(asked.reference), asked.seed)
        beside = {"reference_sha256": of["reference"]}
    else:
        pictures = real_images(
            Dataset(Path(asked.real)), samples.height, samples.width, asked.most, asked.seed
        )
        real = published.see(extractor, published.grouped(pictures, asked.batch))
        found = published.scores(made, real, asked.seed)
        rule = {"real_resize": "bicubic to cover, centre crop"}
        beside = {"real": of["real"], "most_real": asked.most, "seed": asked.seed, **rule}
    if samples.count < published.FEWEST:
        few = f"fewer than {published.FEWEST} images"
        found["warning"] = f"{few}: the covariance is singular, and fid is larger for that"
    records = rulers.of_samples([samples], {**extractor.ruler, **beside})
    return {**found, rulers.OF: dict(of), **records}
