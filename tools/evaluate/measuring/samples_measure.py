"""Generated samples beside real ones, by a classifier trained on the spot or by a published network."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.config.sections import section
from core.errors import UserError
from core.queue.config import QueueConfig
from tools.evaluate import scored
from tools.evaluate.config import CLIP_EXTRACTORS
from tools.evaluate.measuring.measuring import Measuring
from tools.runs.samples import Samples, find_samples, require_one_origin


@dataclass(frozen=True)
class Settings:
    """Settings of `evaluate` by the same names."""

    source: str
    real: str
    heldout: str
    autoencoder: str
    reference: str
    extractor: str
    extractor_weights: str
    steps: int
    seed: int
    count: int
    draws: int
    most_real: int
    fps: float
    stride: int
    batch: int
    device: str
    threads: int


def lines(asked: Settings) -> list[str]:
    """Say what would be compared."""
    samples = find_samples(Path(asked.source))
    require_one_origin(samples)
    found = [
        f"{s.count} {'images' if s.frames == 1 else f'clips of {s.frames} frames'} in {s.folder}, {s.origin}"
        for s in samples
    ]
    _beside(asked)
    heldout = f", held out: {asked.heldout or 'a fifth of it'}" * (asked.extractor == "classifier")
    return [*found, f"against {asked.real or asked.reference}" + heldout]


class OfSamples(Measuring):
    """Samples, and hashes of what they are compared with."""

    def __init__(self, asked: Settings) -> None:
        self._asked, self.samples = asked, _to_score(asked.source, asked.extractor)
        self._beside = _beside(asked)
        self.of = scored.describe(Path(asked.source), self.samples, self._beside)
        self.of |= scored.hashes_of_weights({"extractor_weights": asked.extractor_weights})

    def work(self, output: Path, queue: QueueConfig, publish: Callable[[dict[str, Any]], None]) -> None:
        """Score the samples, with other workers."""
        if self._asked.extractor == "classifier":
            from tools.evaluate import by_classifier

            asked = section(by_classifier.Comparison, self._asked)
            by_classifier.share(list(self.samples), asked, self.of, self._beside, output, queue, publish)
            return
        from tools.evaluate.extractors import by_network

        network = section(by_network.Comparison, self._asked)
        by_network.share(self.samples[0], network, self.of, output, queue, publish)


def _beside(asked: Settings) -> dict[str, str]:
    return scored.require_real(asked.real, asked.heldout, asked.autoencoder, asked.reference)


def _to_score(source: str, extractor: str) -> list[Samples]:
    """Return the folders of samples at a place; UserError where these are not scored together."""
    samples = find_samples(Path(source))
    if len({s.frames > 1 for s in samples}) != len(samples):
        raise UserError("source", source, "at most one folder of images and one of clips")
    require_one_origin(samples)
    of_clips = extractor in CLIP_EXTRACTORS
    if extractor != "classifier" and (len(samples) > 1 or (samples[0].frames > 1) != of_clips):
        kind = "clips" if of_clips else "images"
        raise UserError("source", source, f"one folder of {kind}, with extractor={extractor}")
    return samples
