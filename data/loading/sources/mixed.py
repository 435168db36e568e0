"""Several latent caches of one encoder as one source of latents."""

from __future__ import annotations

import functools
import operator
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Unpack

import numpy as np

from core.distributed.ranks import World
from core.errors import UserError
from core.files import fingerprint
from data.dataset.index import Dataset
from data.latent.reading import compare
from data.latent.text_reading import require_names, unused_captions
from data.loading.loader import LatentLoader, Wanted
from data.loading.sources.cached import CachedLatents, StoredLatents
from data.loading.sources.kinds import Conditions, LatentFacts
from data.order.caption_choice import CaptionConfig
from data.order.steps import LoaderConfig

# The fields that decide what latents mean. Caches may differ in what was encoded (shapes, clips, views,
# whether variances are kept).
SPACE = ("encoder_config", "encoder", "normalisation")


class MixedLatents(StoredLatents):
    """The latents of several caches that share an encoder (`data.loading.sources.kinds.LatentSource`).

    mix: share of the groups of each cache, in any scale; () follows their numbers of samples.
    text: whether training takes their text, which must then be of one text encoder.  pictures: likewise of
    their features, and a picture encoder.
    Buckets are those of every cache in turn, statistics are pooled, the longest text is the longest of all,
    and the fingerprint covers the caches in their order and the mix.
    UserError names the first field in which two of them differ.
    """

    def __init__(
        self,
        caches: Sequence[Dataset],
        mix: Sequence[float] = (),
        *,
        text: bool = True,
        pictures: bool = False,
    ) -> None:
        first, *others = caches
        for number, other in enumerate(others, 1):
            if other.folder.resolve() in [cache.folder.resolve() for cache in caches[:number]]:
                raise UserError(f"{other.place} is to be mixed with itself; weights say how often it comes")
            require_one_space(first, other, text=text, pictures=pictures)
        require_one_table_of_classes(caches)
        self._parts, self._mix = tuple(CachedLatents(cache) for cache in caches), tuple(mix)
        self.facts = _facts_of_all([part.facts for part in self._parts], self._mix)

    def statistics(self, kept: Mapping[str, Any] | None, world: World) -> Mapping[str, Any]:
        """Return those of all caches together."""
        return pooled([part.statistics(kept, world) for part in self._parts])

    def sample_counts(self) -> list[int]:
        """Count the samples of each bucket of every cache in turn."""
        return [count for part in self._parts for count in part.sample_counts()]

    def conditions(self) -> Conditions:
        """Count those of all caches together."""
        first, *others = (part.conditions() for part in self._parts)
        return functools.reduce(operator.add, others, first)

    def check_captions(self, choice: CaptionConfig) -> list[str]:
        """Count such samples of each cache."""
        manifests = [part.cache.manifest for part in self._parts]
        require_names(choice, manifests)
        lines = [unused_captions(part.cache.folder, part.cache.manifest, choice) for part in self._parts]
        return [line for line in lines if line]

    def encoded_with(self, field: str) -> str:
        """Return a field of the config that `encode` kept in the first cache."""
        return self._parts[0].encoded_with(field)

    def loader(
        self,
        config: LoaderConfig,
        world: World,
        seed: int,
        micro_batch: int = 0,
        **wanted: Unpack[Wanted],
    ) -> LatentLoader:
        """Return this rank's batches, each of one cache."""
        caches = [part.cache for part in self._parts]
        return LatentLoader(caches, config, world, seed, micro_batch, mix=self._mix, **wanted)


def _facts_of_all(facts: Sequence[LatentFacts], mix: Sequence[float]) -> LatentFacts:
    longest = [each.longest_text for each in facts if each.longest_text is not None]
    return LatentFacts(
        place=", ".join(each.place for each in facts),
        fingerprint=fingerprint({"caches": [each.fingerprint for each in facts], "mix": list(mix)}),
        parts={each.place: each.fingerprint for each in facts},
        samples=sum(each.samples for each in facts),
        classes=next((each.classes for each in facts if each.classes), ()),
        shapes=tuple(shape for each in facts for shape in each.shapes),
        batch_shapes=tuple(shape for each in facts for shape in each.batch_shapes),
        made_from=facts[0].made_from,
        longest_text=max(longest) if longest else None,
        feature_shapes=tuple(shape for each in facts for shape in each.feature_shapes)
        if all(each.feature_shapes for each in facts)
        else (),
        has_stills=all(each.has_stills for each in facts),
        frame_rates=_all_rates(facts),
    )


def _all_rates(facts: Sequence[LatentFacts]) -> tuple[tuple[float, int], ...]:
    """Add up the frame rates of all caches, the most frequent first."""
    counts: Counter[float] = Counter()
    for each in facts:
        counts.update(dict(each.frame_rates))
    return tuple(counts.most_common())


def pooled(statistics: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return mean and standard deviation per channel over all caches, as of one cache of all samples.

    Every latent position counts once, so a cache weighs as its positions do, whatever the mix. Of
    `LatentSums.statistics`: mean = sum n_i mean_i / n, variance = sum n_i (std_i^2 + (mean_i - mean)^2) / n.
    """
    counts = np.array([s["count"] for s in statistics])
    means, deviations = (np.array([s[name] for s in statistics], np.float64) for name in ("mean", "std"))
    weights = (counts / counts.sum())[:, None]
    mean = (weights * means).sum(0)
    variance = (weights * (deviations**2 + (means - mean) ** 2)).sum(0)
    return {"mean": mean.tolist(), "std": np.sqrt(variance).tolist(), "count": int(counts.sum())}


def require_one_space(first: Dataset, other: Dataset, *, text: bool, pictures: bool = False) -> None:
    """Raise UserError unless both are latent caches of one autoencoder.

    text, pictures: of one text encoder, and of one picture encoder, too.
    """
    for cache in (first, other):
        if cache.manifest.kind != "latent":
            raise UserError(f"{cache.place} is a raw dataset, and only latent caches can be mixed")
    names = (*SPACE, *(["text"] if text else []), *(["pictures"] if pictures else []))
    made = [cache.manifest.extra["made_from"] for cache in (first, other)]
    _require_equal(first, other, *({name: m.get(name) for name in names} for m in made))


def require_one_table_of_classes(caches: Sequence[Dataset]) -> None:
    """Raise UserError unless all have the same classes; caches without labels are not compared."""
    named = [cache for cache in caches if cache.manifest.classes]
    for cache in caches:
        if not named or cache.manifest.classes == named[0].manifest.classes:
            continue
        if cache.manifest.classes or (cache.index["label"] >= 0).any():
            _require_equal(named[0], cache, *(_class_table(c) for c in (named[0], cache)))


def _class_table(cache: Dataset) -> dict[str, Any]:
    return {"classes": {str(label): name for label, name in enumerate(cache.manifest.classes)}}


def _require_equal(first: Dataset, other: Dataset, a: dict[str, Any], b: dict[str, Any]) -> None:
    if (differs := compare(a, b)) is not None:
        field, ours, theirs = differs
        raise UserError(
            f"{first.place} and {other.place} cannot be mixed: {field} is {ours} in the first "
            f"and {theirs} in the second"
        )
