"""The protocol of a source of latents: a cache, several caches, or raw data encoded online."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Unpack

import numpy as np
from torch import Tensor, device

from core.batch import Batch
from core.distributed.ranks import World
from data.latent.packs import Shape
from data.loading.loader import Wanted
from data.order.caption_choice import CaptionConfig
from data.order.steps import LoaderConfig, StepPlan

Grid = tuple[int, int, int]


class Loader(Protocol):
    """Gives one rank its micro-batches, the same for a step whenever it is asked."""

    plan: StepPlan

    def load(self, step_index: int) -> list[Batch]:
        """Return the micro-batches of one step."""
        ...

    def largest(self) -> list[Batch]:
        """Return micro-batches that take as much memory as any; none where all are of one shape."""
        ...


@dataclass(frozen=True, kw_only=True)
class LatentFacts:
    """Facts about a source that are known once it is open.

    place: the folders or URLs, as messages name them.  fingerprint: changes with the samples, their latents
    and their order.  parts: {place: fingerprint} of each dataset.  classes: names by label.
    shapes: (M, C, T, H, W) of the latents of each bucket, in the order of the loader's buckets.
    batch_shapes: of a sample of each bucket in `Batch.x`.
    made_from: what made the latents, as the manifest of a cache records it.
    longest_text: tokens of the longest caption; None where captions were not embedded.
    feature_shapes: (F, h, w, E) of a picture encoder's features of each bucket; () where there are none.
    picture_shapes: (3, F, H, W) of the pictures that batches bring in place of features; () for none.
    has_stills: whether it gives the last pictures of clips as stills.
    frame_rates: (frames a second, samples) of clips, the most frequent first; () where that is not known.
    """

    place: str
    fingerprint: str
    parts: Mapping[str, str]
    samples: int
    classes: tuple[str, ...]
    shapes: tuple[Shape, ...]
    batch_shapes: tuple[Shape, ...]
    made_from: Mapping[str, Any]
    longest_text: int | None
    feature_shapes: tuple[Shape, ...] = ()
    picture_shapes: tuple[Shape, ...] = ()
    has_stills: bool = False
    frame_rates: tuple[tuple[float, int], ...] = ()

    @property
    def fps(self) -> float | None:
        """Frames a second of most clips; None where that is not known."""
        return self.frame_rates[0][0] if self.frame_rates else None

    @property
    def encoder(self) -> str:
        """Fingerprint of the weights and configuration of the autoencoder that made the latents."""
        return str(self.made_from["encoder"])

    @property
    def text_encoder(self) -> dict[str, Any] | None:
        """Description of the text encoder, as `models.text.encoders` gives it.

        None where captions are not embedded.
        """
        found: dict[str, Any] | None = self.made_from.get("text")
        return found

    @property
    def picture_encoder(self) -> dict[str, Any] | None:
        """Description of the picture encoder, as `encode` records it; None where there are no features."""
        found: dict[str, Any] | None = self.made_from.get("pictures")
        return found

    @property
    def latent_shapes(self) -> list[tuple[int, int, int, int]]:
        """(C, T, H, W) of each bucket."""
        return [(c, t, h, w) for _, c, t, h, w in self.shapes]

    @property
    def text_shape(self) -> tuple[int, int] | None:
        """(L, D) of the text of each sample in a batch; None where captions were not embedded."""
        if self.longest_text is None or self.text_encoder is None:
            return None
        return max(1, self.longest_text), int(self.text_encoder["width"])


@dataclass(frozen=True)
class Conditions:
    """The conditions that a source can teach: samples by class, and those without label or caption.

    by_class: samples of each class.  unlabelled: samples without a label.
    textless: samples without a caption; None where captions are not read beforehand.
    largest_label: -1 where no sample has one; it may stand for no class where classes have no names.
    """

    by_class: tuple[int, ...]
    unlabelled: int
    textless: int | None
    largest_label: int = -1

    @classmethod
    def count(cls, labels: np.ndarray, classes: int, textless: int | None) -> Conditions:
        """Count labels (samples,), of which those below 0 are none."""
        known = labels[labels >= 0]
        by_class = np.bincount(known[known < classes], minlength=classes).tolist()
        largest = int(known.max(initial=-1))
        return cls(tuple(by_class), len(labels) - len(known), textless, largest)

    def __add__(self, other: Conditions) -> Conditions:
        """Return the counts of two sources together."""
        length = max(len(self.by_class), len(other.by_class))
        counts = [np.pad(c.by_class, (0, length - len(c.by_class))) for c in (self, other)]
        known = self.textless is not None and other.textless is not None
        textless = (self.textless or 0) + (other.textless or 0) if known else None
        return Conditions(
            tuple((counts[0] + counts[1]).tolist()),
            self.unlabelled + other.unlabelled,
            textless,
            max(self.largest_label, other.largest_label),
        )


class LatentSource(Protocol):
    """A source of latents for training.

    facts: what is known without further work.  gives_latents: whether batches hold moments when they arrive,
    so that `moments` has nothing to do.  text_setting: what a person sets to have captions embedded.
    """

    facts: LatentFacts
    gives_latents: bool
    text_setting: str

    def to(self, device: device) -> None:
        """Move whatever computes latents to this device."""
        ...

    def moments(self, x: Tensor) -> Tensor:
        """Turn a micro-batch's x, on the device, into moments (B, M, C, T, H, W)."""
        ...

    def features(self, batch: Batch) -> Tensor | None:
        """Return a picture encoder's features of a micro-batch on the device, (B, F, h, w, E).

        None where there are none.
        """
        ...

    def stills(self, batch: Batch) -> Tensor | None:
        """Return the last pictures of a micro-batch of clips as stills, (B, 1, C, 1, H, W) raw means.

        None of pictures, and where they are not asked for.
        """
        ...

    def statistics(self, kept: Mapping[str, Any] | None, world: World) -> Mapping[str, Any]:
        """Return mean and standard deviation per channel (collective: all ranks).

        kept: those the run was begun with, if any; a source that would have to measure them takes these.
        """
        ...

    def sample_counts(self) -> list[int]:
        """Count the samples of each bucket."""
        ...

    def conditions(self) -> Conditions:
        """Count samples by class, and those without label or caption; reads a column of the whole index."""
        ...

    def check_captions(self, choice: CaptionConfig) -> list[str]:
        """Return warnings about samples of whose captions `choice` takes none; reads a whole table.

        UserError for a name that no caption has.
        """
        ...

    def encoded_with(self, field: str) -> str:
        """Return a field of the config that latents are made with; "" where that is not known."""
        ...

    def latent_grid(self, grid: Grid) -> Grid:
        """Return (T, H, W) of the latents of a sample whose last three dimensions are `grid` in `Batch.x`."""
        ...

    def loader(
        self,
        config: LoaderConfig,
        world: World,
        seed: int,
        micro_batch: int = 0,
        **wanted: Unpack[Wanted],
    ) -> Loader:
        """Return this rank's batches.

        micro_batch: most samples a rank takes at once; 0 is its whole share of a group.
        """
        ...
