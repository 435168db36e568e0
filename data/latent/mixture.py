"""Several latent caches of one encoder, trained on as if they were one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from core.errors import UserError
from core.files import fingerprint
from data.dataset.index import Dataset
from data.latent.reading import compare

# What latents mean. Caches may differ in what was encoded (shapes, clips, views, whether variances are kept).
SPACE = ("encoder_config", "encoder", "normalisation")


class Mixture(Dataset):
    """Caches that share an encoder, seen as one: the manifest speaks for all of them; it has no index.

    mix: share of the groups of each cache, in any scale; () follows their numbers of samples.
    text: whether training takes their text, which must then be of one text encoder.
    The manifest's buckets are those of every cache in turn, its statistics are pooled, its longest text is
    the longest of all, and its fingerprint covers the caches in their order and the mix.
    UserError names the first field in which two of them differ.
    """

    def __init__(self, caches: Sequence[Dataset], mix: Sequence[float] = (), *, text: bool = True) -> None:
        self.caches, self.mix = tuple(caches), tuple(mix)
        first, *others = self.caches
        for number, other in enumerate(others, 1):
            if other.folder.resolve() in [cache.folder.resolve() for cache in self.caches[:number]]:
                raise UserError(f"{other.place} is to be mixed with itself; weights say how often it comes")
            require_one_space(first, other, text=text)
        require_one_table_of_classes(self.caches)
        manifests = [cache.manifest for cache in self.caches]
        longest = [m.extra["longest_text"] for m in manifests if "longest_text" in m.extra]
        self.folder, self.place = first.folder, ", ".join(cache.place for cache in self.caches)
        self.manifest = replace(
            first.manifest,
            fingerprint=fingerprint({"caches": [m.fingerprint for m in manifests], "mix": list(self.mix)}),
            shards=tuple(shard for m in manifests for shard in m.shards),
            classes=next((m.classes for m in manifests if m.classes), ()),
            buckets=tuple(bucket for m in manifests for bucket in m.buckets),
            files={},
            extra={
                "made_from": first.manifest.extra["made_from"],
                "statistics": pooled([m.extra["statistics"] for m in manifests]),
                **({"longest_text": max(longest)} if longest else {}),
            },
        )

    def __len__(self) -> int:
        return self.manifest.samples


def pooled(statistics: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation per channel over all caches together, as one cache of all would have them.

    Every latent position counts once, so a cache weighs as its positions do, whatever the mix. Of
    `LatentSums.statistics`: mean = sum n_i mean_i / n, variance = sum n_i (std_i^2 + (mean_i - mean)^2) / n.
    """
    counts = np.array([s["count"] for s in statistics])
    means, deviations = (np.array([s[name] for s in statistics], np.float64) for name in ("mean", "std"))
    weights = (counts / counts.sum())[:, None]
    mean = (weights * means).sum(0)
    variance = (weights * (deviations**2 + (means - mean) ** 2)).sum(0)
    return {"mean": mean.tolist(), "std": np.sqrt(variance).tolist(), "count": int(counts.sum())}


def require_one_space(first: Dataset, other: Dataset, *, text: bool) -> None:
    """UserError unless both are latent caches of one autoencoder, and with `text` of one text encoder."""
    for cache in (first, other):
        if cache.manifest.kind != "latent":
            raise UserError(f"{cache.place} is a raw dataset, and only latent caches can be mixed")
    names = (*SPACE, "text") if text else SPACE
    made = [cache.manifest.extra["made_from"] for cache in (first, other)]
    _require_equal(first, other, *({name: m.get(name) for name in names} for m in made))


def require_one_table_of_classes(caches: Sequence[Dataset]) -> None:
    """UserError unless all have the same classes, but for those without labels."""
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
