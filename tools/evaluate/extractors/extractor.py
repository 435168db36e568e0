"""The interface of a feature extractor for scores."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.errors import UserError
from tools.evaluate.features.halves import Halves, width_by_halves
from tools.evaluate.features.neighbours import Near, near
from tools.evaluate.features.spread import Spread
from tools.evaluate.jackknife import LEAST, distance_interval, mean_interval, without_bias
from tools.evaluate.moments import Moments, Reference
from tools.runs import rulers
from tools.runs import score_names as names

Pixels = NDArray[np.uint8]
Features = NDArray[np.float32]
UNKNOWN = {"extractor_weights": "of unknown origin"}  # in rulers: no published hash to compare theirs with
Numbers = Mapping[str, Features]
FEATURES = "features"
NEIGHBOURS = (names.PRECISION, names.RECALL, names.DENSITY, names.COVERAGE)


@dataclass(frozen=True)
class Seen:
    """Samples as a network sees them: features (N, D) and their sums; more: what single networks add."""

    features: Features
    moments: Moments
    more: Mapping[str, Any] = field(default_factory=dict)


class Extractor(ABC):
    """A network on its device.

    of_clips: whether it sees clips, not images.  of_texts: whether it has `text_scores`.  least: samples of
    either side without which its measures are not defined.  of_pictures: scores that need the real samples,
    not statistics of them alone.
    """

    of_clips: ClassVar[bool] = False
    of_texts: ClassVar[bool] = False
    least: ClassVar[int] = 2
    of_pictures: ClassVar[tuple[str, ...]] = ()

    @property
    @abstractmethod
    def ruler(self) -> dict[str, Any]:
        """Return what a score says of the network."""

    @property
    @abstractmethod
    def fewest(self) -> int:
        """Return with how many samples the covariance of features has full rank; 0 where none is taken."""

    @property
    @abstractmethod
    def widths(self) -> Mapping[str, int]:
        """Return the numbers of a sample by name; FEATURES are those whose sums are taken."""

    @abstractmethod
    def numbers(self, batch: Pixels) -> Numbers:
        """Show samples (n, [T,] H, W, 3) to the network; return their numbers (n, D) by name."""

    def seen(self, parts: Iterable[Numbers], *, is_real: bool = False) -> Seen:
        """Put the numbers of parts together, in their order.  is_real: whether samples are the real ones."""
        rows, moments = [], Moments.empty(self.widths[FEATURES])
        for part in parts:
            rows.append(part[FEATURES])
            moments.add(rows[-1])
        return Seen(np.concatenate(rows), moments)

    def see(self, batches: Iterable[Pixels], *, is_real: bool = False) -> Seen:
        """Show samples to the network, and put their numbers together."""
        return self.seen(map(self.numbers, batches), is_real=is_real)

    @abstractmethod
    def scores(self, made: Seen, real: Seen, seed: int) -> dict[str, Any]:
        """Return all scores of generated samples against real ones."""

    @abstractmethod
    def scores_by_statistics(self, made: Seen, path: Path, seed: int) -> dict[str, Any]:
        """Return the scores that published statistics allow; UserError for a network without any."""

    def text_scores(self, made: Seen, texts: Sequence[str], seed: int) -> dict[str, Any]:
        """Return scores of samples beside the texts they were made from."""
        raise NotImplementedError

    def require_enough(self, field: str, place: object, count: int) -> None:
        """Raise UserError for so few samples, of the place in `field`, that a measure is not defined."""
        if count < self.least:
            what = "clips" if self.of_clips else "images"
            raise UserError(field, place, f"at least {self.least} {what} for these scores; it has {count}")

    def singular(self, count: int, what: str, score: str) -> dict[str, str]:
        """Return a warning where so few samples (`what`) make the covariance singular, {} elsewhere."""
        return rulers.warning_of_few(count, self.fewest, what, score)


def channels_first(pixels: Pixels, device: torch.device) -> Tensor:
    """Move samples (n, ..., 3) to a device as (n, 3, ...) uint8."""
    return torch.from_numpy(pixels.copy()).to(device).movedim(-1, 1)


def features_of(network: Callable[[Tensor], Tensor], pixels: Pixels, device: torch.device) -> Numbers:
    """Return the features that a network has of samples (n, ..., 3), as `Extractor.numbers` does."""
    found: Features = network(channels_first(pixels, device)).cpu().numpy()
    return {FEATURES: found}


def distance_scores(name: str, made: Seen, reference: Reference, seed: int) -> dict[str, Any]:
    """Return a Fréchet distance, the half width of its interval, and its value at infinitely many samples.

    A distance of N samples is one of N: it is biased, so the extrapolated one stands beside it.
    """
    found = {name: reference.distance(made.moments)}
    if made.moments.count >= LEAST:
        found[names.interval(name)] = distance_interval(made.features, reference, seed)
        found[f"{name}_infinite"] = without_bias(made.features, reference, seed)
    return found


def spread_scores(name: str, spread: Spread) -> dict[str, float]:
    """Return a score, and, as far as they are known, the deviation of its parts and its interval."""
    beside = {f"{name}_deviation": spread.deviation, names.interval(name): spread.half_width}
    return {name: spread.value} | {name: value for name, value in beside.items() if not math.isnan(value)}


def neighbour_scores(made: Seen, real: Seen, seed: int) -> dict[str, float]:
    """Return precision, recall, density and coverage, with their intervals from 200 samples on.

    Those of recall and coverage need as many real ones.
    """
    sizes = len(made.features), len(real.features)
    halves = Halves.of(*sizes, seed) if min(sizes) >= LEAST else None
    found = near(made.features, real.features, halves)
    scores = dict(zip(NEIGHBOURS, astuple(found.scores), strict=True))
    return scores | {names.interval(name): half for name, half in _neighbour_intervals(found, seed)}


def _neighbour_intervals(found: Near, seed: int) -> Iterator[tuple[str, float]]:
    """Yield the half width of each interval that is known."""
    if len(found.inside) >= LEAST:
        yield names.PRECISION, mean_interval(found.inside, seed)
        yield names.DENSITY, mean_interval(found.balls, seed)
    if len(found.recall_apart):
        yield names.RECALL, width_by_halves(found.recall_apart, len(found.reached))
        yield names.COVERAGE, width_by_halves(found.coverage_apart, len(found.covered))
