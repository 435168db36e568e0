"""Scores by the published Inception network: FID, sFID, Inception score, KID, precision and recall, density
and coverage, each with the record of what it was measured by (the ruler).

Pictures go to the network as bytes, so a ruler holds for `npz` and lossless files alike and names any other
format. Sums are added up batch by batch; features of 50,000 pictures take 0.4 GB a side.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from core.checkpoint.tensor_file import load_tensors
from core.checkpoint.torch_file import read_tensors
from core.errors import UserError
from core.files import sha256_file
from core.progress import Progress
from models.extractors import inception
from tools.evaluate.features import inception_score, kernel_distance, neighbours
from tools.evaluate.jackknife import LEAST, distance_interval, without_bias
from tools.evaluate.moments import Moments, Reference, read_reference
from tools.runs import score_names as names

FORMULAS = 1  # version of the measures, in rulers
FEWEST = inception.WIDTH  # pictures with which the covariance has full rank
SPATIAL_WIDTH = inception.SPATIAL * 17 * 17
Pictures = NDArray[np.uint8]


@dataclass(frozen=True)
class Extractor:
    """The network, and what a ruler says of it."""

    network: inception.Inception
    device: torch.device
    sha256: str

    @property
    def ruler(self) -> dict[str, Any]:
        return {
            "extractor": "inception-2015-12-05",
            "extractor_sha256": self.sha256,
            "precision": "float32",
            "resize": "bilinear to 299x299 as TensorFlow 1, no anti-aliasing",
            "formulas": FORMULAS,
        }


@dataclass(frozen=True)
class Seen:
    """Pictures as the network sees them: features and logits (N, ...), sums of features and spatial ones."""

    pool: NDArray[np.float32]
    logits: NDArray[np.float32]
    moments: Moments
    spatial: Moments


def open_extractor(path: Path, device: torch.device) -> Extractor:
    """Load published weights, `.pth` or `.safetensors`; UserError if they are of another network."""
    if not path.is_file():
        raise UserError("extractor_weights", path, "a file of weights, pt_inception-2015-12-05-6726825d.pth")
    is_ours = path.suffix == ".safetensors"
    state = load_tensors(path) if is_ours else read_tensors(path, "extractor_weights")
    network = inception.load(state, "extractor_weights", path)
    return Extractor(network.to(device), device, sha256_file(path))


def see(extractor: Extractor, batches: Iterable[Pictures]) -> Seen:
    """Show pictures, batches of (n, H, W, 3), to the network."""
    pool, logits = [], []
    moments, spatial = Moments.empty(inception.WIDTH), Moments.empty(SPATIAL_WIDTH)
    for pictures in batches:
        with torch.no_grad():
            x = torch.from_numpy(pictures.copy()).to(extractor.device)
            found = extractor.network(x.permute(0, 3, 1, 2))
        pool.append(found.pool.cpu().numpy())
        logits.append(found.logits.cpu().numpy())
        moments.add(pool[-1])
        spatial.add(found.spatial.cpu().numpy())
    return Seen(np.concatenate(pool), np.concatenate(logits), moments, spatial)


def counted_batches(batches: Iterable[Pictures], count: int, what: str) -> Iterator[Pictures]:
    """Yield batches with a line of progress."""
    with Progress(count, what) as progress:
        for pictures in batches:
            yield pictures
            progress.advance(len(pictures))


def grouped(pictures: Iterable[Pictures], size: int) -> Iterator[Pictures]:
    """Stack single pictures (H, W, 3) into batches of `size`."""
    rest = iter(pictures)
    while batch := list(itertools.islice(rest, size)):
        yield np.stack(batch)


def scores(made: Seen, real: Seen, seed: int) -> dict[str, Any]:
    """Return all scores of generated pictures against real ones.

    A Fréchet distance of N pictures is one of N: it is biased, so `fid_infinite` beside it is extrapolated.
    """
    kernel = kernel_distance(made.pool, real.pool, seed)
    near = neighbours(made.pool, real.pool)
    return {
        **_against(made, Reference.of(real.moments, real.pool), seed),
        names.SFID: Reference.of(real.spatial).distance(made.spatial),
        names.KID: kernel.value,
        "kid_deviation": kernel.half_width,
        names.PRECISION: near.precision,
        names.RECALL: near.recall,
        names.DENSITY: near.density,
        names.COVERAGE: near.coverage,
        "reference_count": real.moments.count,
    }


def scores_by_statistics(made: Seen, path: Path, seed: int) -> dict[str, Any]:
    """Return the scores that published statistics allow: FID, and sFID where they have `mu_s`, `sigma_s`."""
    found = _against(made, read_reference(path, inception.WIDTH), seed)
    try:
        spatial = read_reference(path, SPATIAL_WIDTH, ("mu_s", "sigma_s"))
    except UserError:
        return found
    return {**found, names.SFID: spatial.distance(made.spatial)}


def _against(made: Seen, reference: Reference, seed: int) -> dict[str, Any]:
    deviation = inception_score(made.logits, seed)
    found = {
        names.FID: reference.distance(made.moments),
        names.INCEPTION: deviation.value,
        "inception_score_deviation": deviation.half_width,
        "images": made.moments.count,
    }
    if made.moments.count >= LEAST:
        found["fid_interval"] = distance_interval(made.pool, reference, seed)
        found[names.FID_INFINITE] = without_bias(made.pool, reference, seed)
    return found
