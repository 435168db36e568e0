"""The outputs that a sampler compares, by what its settings ask for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from core.batch import Condition
from core.diffusion.guidance.branches import Branches, by_condition
from core.diffusion.guidance.classifiers import Classifier, ClassifierGuide
from core.diffusion.guidance.config import GuideConfig
from core.diffusion.objectives.noised import Model
from core.errors import UserError


@dataclass(frozen=True)
class Guides:
    """The guides beyond the network's own conditions: other networks, classifiers, skipped blocks.

    negative: conditions to move away from, in place of none (label -1 and text of length 0 are none).
    weak: a weaker network of the same prediction.  skipping: the network without some of its blocks.
    classifier: of noisy latents, by whose gradient samples move to their label.
    """

    negative: Condition | None = None
    weak: Model | None = None
    skipping: Model | None = None
    classifier: Classifier | None = None

    def with_networks(self, change: Callable[[Model], Model]) -> Guides:
        """Return the same with other networks changed."""
        weak, skipping = (each and change(each) for each in (self.weak, self.skipping))
        return replace(self, weak=weak, skipping=skipping)

    def require(self, condition: Condition, config: GuideConfig) -> None:
        """Raise UserError where what a setting asks for is missing."""
        for name, network in (("weak", self.weak), ("skip", self.skipping)):
            if getattr(config, name) != 1 and network is None:
                raise UserError(name, getattr(config, name), "1 without another network")
        if config.classifier and (self.classifier is None or condition.label is None):
            raise UserError("classifier", config.classifier, "0 without a classifier and classes of samples")

    def branches(self, model: Model, condition: Condition, scale: float, config: GuideConfig) -> Branches:
        """Return what is compared.  scale: of all conditions."""
        found = by_condition(model, condition, scale, config.own_scales, self.negative)
        return found.with_weaker(self.weak, config.weak).with_weaker(self.skipping, config.skip)

    def classifier_guide(self, condition: Condition, config: GuideConfig) -> ClassifierGuide | None:
        """Return the guidance by a classifier, None for none."""
        if not config.classifier or self.classifier is None or condition.label is None:
            return None
        return ClassifierGuide(self.classifier, condition.label, config.classifier)


NONE = Guides()
