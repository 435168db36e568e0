"""Scores by the published Inception network: FID, sFID, Inception score, KID, precision and recall, density
and coverage, each with the record of what it was measured by (the ruler).

Pictures go to the network as bytes, so a ruler holds for `npz` and lossless files alike and names any other
format. Sums are added up batch by batch; features of 50,000 pictures take 0.4 GB a side.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch

from core.checkpoint.tensor_file import load_tensors
from core.checkpoint.torch_file import read_tensors
from core.errors import UserError
from core.files import sha256_file
from core.progress import say
from models.extractors import inception
from tools.evaluate.extractors.extractor import (
    FEATURES,
    NEIGHBOURS,
    UNKNOWN,
    Extractor,
    Features,
    Numbers,
    Pixels,
    Seen,
    channels_first,
    distance_scores,
    neighbour_scores,
    spread_scores,
)
from tools.evaluate.features.inception_score import SPLIT, inception_score, shuffled_inception_score
from tools.evaluate.features.kernels import kernel_distance
from tools.evaluate.features.neighbours import LEAST_SAMPLES
from tools.evaluate.moments import Moments, Reference, read_reference
from tools.runs import score_names as names

PUBLISHED = "6726825d"  # with which the hash of the published file begins, as its name says
FORMULAS = 2  # version of the measures, in rulers
SPATIAL_WIDTH = inception.SPATIAL * 17 * 17
LOGITS, SPATIAL = "logits", "spatial"


@dataclass(frozen=True)
class InceptionScores(Extractor):
    """The network on a device.  sha256: of the file of its weights."""

    network: inception.Inception
    device: torch.device
    sha256: str
    least: ClassVar[int] = LEAST_SAMPLES
    of_pictures: ClassVar[tuple[str, ...]] = (names.KID, *NEIGHBOURS)

    @property
    def ruler(self) -> dict[str, Any]:
        return {
            "extractor": "inception-2015-12-05",
            **({"extractor_weights": "published"} if self.sha256.startswith(PUBLISHED) else UNKNOWN),
            "extractor_sha256": self.sha256,
            "precision": "float32",
            "resize": "bilinear to 299x299 as TensorFlow 1, no anti-aliasing",
            "inception_split": SPLIT,
            "formulas": FORMULAS,
        }

    @property
    def fewest(self) -> int:
        return inception.WIDTH

    @property
    def widths(self) -> dict[str, int]:
        return {FEATURES: inception.WIDTH, LOGITS: inception.CLASSES, SPATIAL: SPATIAL_WIDTH}

    def numbers(self, batch: Pixels) -> Numbers:
        """Show pictures to the network."""
        with torch.no_grad():
            found = self.network(channels_first(batch, self.device))
        each = {FEATURES: found.pool, LOGITS: found.logits, SPATIAL: found.spatial}
        return {name: numbers.cpu().numpy() for name, numbers in each.items()}

    def seen(self, parts: Iterable[Numbers], *, is_real: bool = False) -> Seen:
        """Put parts together; `more` has logits (N, 1008), and spatial features as `Seen`.

        Of real samples only the sums of the latter are kept: 0.4 GB less.
        """
        logits: list[Features] = []
        spatial: list[Features] = []
        sums = Moments.empty(SPATIAL_WIDTH)

        def noted() -> Iterator[Numbers]:
            for part in parts:
                logits.append(part[LOGITS])
                spatial.append(part[SPATIAL][: 0 if is_real else None])
                sums.add(part[SPATIAL])
                yield part

        seen = super().seen(noted())
        more = {LOGITS: np.concatenate(logits), SPATIAL: Seen(np.concatenate(spatial), sums)}
        return replace(seen, more=more)

    def scores(self, made: Seen, real: Seen, seed: int) -> dict[str, Any]:
        """Return all scores of generated pictures against real ones."""
        return {
            **_against(made, Reference.of(real.moments, real.features), seed),
            **distance_scores(names.SFID, made.more[SPATIAL], Reference.of(real.more[SPATIAL].moments), seed),
            **spread_scores(names.KID, kernel_distance(made.features, real.features, seed)),
            **neighbour_scores(made, real, seed),
        }

    def scores_by_statistics(self, made: Seen, path: Path, seed: int) -> dict[str, Any]:
        """Return FID and the Inception score, and sFID where a file has `mu_s` and `sigma_s`."""
        found = _against(made, read_reference(path, inception.WIDTH), seed)
        if "clean" in path.stem.lower():
            fits = "pictures are resized as TensorFlow 1 does here, which its legacy_tensorflow ones fit"
            say(f"warning: {path} is called as statistics that clean-fid made of its own resizing; {fits}")
        try:
            spatial = read_reference(path, SPATIAL_WIDTH, ("mu_s", "sigma_s"))
        except UserError:
            say(f"{path} has no mu_s and sigma_s: no {names.SFID} by its statistics")
            return found
        return {**found, **distance_scores(names.SFID, made.more[SPATIAL], spatial, seed)}


def open_extractor(path: Path, device: torch.device) -> InceptionScores:
    """Load published weights, `.pth` or `.safetensors`; UserError if they are of another network."""
    if not path.is_file():
        raise UserError("extractor_weights", path, "a file of weights, pt_inception-2015-12-05-6726825d.pth")
    is_ours = path.suffix == ".safetensors"
    state = load_tensors(path) if is_ours else read_tensors(path, "extractor_weights")
    network = inception.load(state, "extractor_weights", path)
    return InceptionScores(network.to(device), device, sha256_file(path))


def _against(made: Seen, reference: Reference, seed: int) -> dict[str, Any]:
    logits = made.more[LOGITS]
    if len(logits) > SPLIT and (rest := len(logits) % SPLIT):
        cut = f"{len(logits)} images are not cut into splits of {SPLIT}: the last one has {rest}"
        say(f"warning: {cut}, which counts as much in the Inception score and lowers it; take a multiple")
    return {
        **distance_scores(names.FID, made, reference, seed),
        **spread_scores(names.INCEPTION, inception_score(logits, seed)),
        **spread_scores(names.INCEPTION_SHUFFLED, shuffled_inception_score(logits, seed)),
    }
