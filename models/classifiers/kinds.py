"""The kinds of classifiers of noisy latents, by the name that their record gives them."""

from __future__ import annotations

from models.classifiers.pooled import Pooled, PooledConfig

ClassifierConfig = PooledConfig  # a union of the classes below
Network = Pooled
KINDS: dict[str, type[ClassifierConfig]] = {"pooled": PooledConfig}
