"""Guidance of a job's samples by further networks: a weaker one, or a classifier of noisy latents."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from core.batch import Condition
from core.checkpoint.weights import choose, require_held
from core.diffusion.guidance.config import GuideConfig
from core.diffusion.guidance.guides import Guides
from core.distributed.sequence import SequenceGroup
from core.errors import UserError, below
from models.denoisers.skipping import WithoutBlocks
from tools.runs.loaded_run import LatentSpace, LoadedRun, open_run, recorded_network
from tools.sample.config import WeakConfig
from tools.sample.noisy_classifiers.opening import OpenClassifier
from tools.sample.prompts import Prompts
from tools.sample.requests.schedule import Schedule

ALIKE = ("path", "prediction", "encoder", "mean", "std", "classes", "text")
"""Fields of the latent space in which a weaker network must equal the other."""

WEAK = ("checkpoint", "weights", "weights_sha256", "manifest_sha256")  # recorded of it


def open_weak(
    config: WeakConfig,
    trained: LoadedRun,
    record: Mapping[str, Any] | None,
    device: torch.device,
    dtype: torch.dtype = torch.float32,
    sequence: SequenceGroup | None = None,
) -> LoadedRun | None:
    """Open the weaker network, None without one; UserError where it is not for the same latents.

    record: what the job was begun with, which keeps to its checkpoint.  sequence: as `open_run` takes it.
    """
    if not config.source:
        return None
    begun = ((record or {}).get("weak") or {}).get("checkpoint", "")
    with below("weak"):
        weak = open_run(
            Path(config.source), config.checkpoint or begun, config.weights, device, dtype, sequence
        )
        _require_alike(config.source, weak.space, trained.space)
    return weak


def look_at_others(weak: WeakConfig, guides: Sequence[GuideConfig], space: LatentSpace, source: Path) -> None:
    """Refuse a weaker network and blocks to leave out that a run cannot be guided by; weights are not read.

    source: the folder of the run.
    """
    if weak.source:
        with below("weak"):
            _require_alike(weak.source, LatentSpace.read(Path(weak.source)), space)
            require_held(choose(Path(weak.source), weak.checkpoint), weak.weights)
    if any(guide.skip_blocks for guide in guides):
        with torch.device("meta"):
            network = recorded_network(source).build()
        for guide in guides:
            with below("sampler.guide"):
                WithoutBlocks(network, guide.skip_blocks)


def _require_alike(source: str, theirs: LatentSpace, ours: LatentSpace) -> None:
    for field in ALIKE:
        if (other := getattr(theirs, field)) != (own := getattr(ours, field)):
            here, there = (getattr(value, "shown", value) for value in (own, other))
            expected = f"a run like the other, with {field}={here}; this one has {there}"
            raise UserError("source", source, expected)


@dataclass(frozen=True)
class Guiding:
    """The further networks of a job.  weak: the weaker one.  classifier: of noisy latents."""

    trained: LoadedRun
    weak: LoadedRun | None = None
    classifier: OpenClassifier | None = None

    @property
    def record(self) -> dict[str, Any]:
        """The guides as samples record them, by name."""
        found: dict[str, Any] = {}
        if self.weak is not None:
            found["weak"] = {name: getattr(self.weak, name) for name in WEAK}
        if self.classifier is not None:
            found["classifier"] = self.classifier.saved.record
        return found

    def of(
        self,
        samples: NDArray[np.int64],
        schedule: Schedule,
        prompts: Prompts | None,
        config: GuideConfig,
    ) -> Guides:
        """Return what guides these samples, by number."""
        model, device = self.trained.model, next(self.trained.model.parameters()).device
        label, text = schedule.negative_label[samples], schedule.negative_text[samples]
        negative = Condition()
        if (label >= 0).any():
            negative = Condition(label=torch.from_numpy(label).to(device))
        if prompts is not None and (text >= 0).any():
            tokens, lengths = prompts.of(text)
            negative = Condition(negative.label, tokens, lengths)
        skipping = WithoutBlocks(model, config.skip_blocks) if config.skip_blocks else None
        classifier = self.classifier.network if self.classifier else None
        return Guides(negative, self.weak.model if self.weak else None, skipping, classifier)
