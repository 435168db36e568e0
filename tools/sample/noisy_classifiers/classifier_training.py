"""Train a classifier of noisy latents for a run, on a cache of latents like those of the run.

    from tools.sample.noisy_classifiers.classifier_training import train

    train(run="runs/train", cache="runs/latents", output="runs/classifier")

`longtake sample runs/train classifier=runs/classifier sampler.guide.classifier=2` is guided by it.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from core.diffusion.paths.kinds import make_path
from core.errors import UserError
from data.dataset.index import Dataset
from data.latent.reading import reader_of, require_latents
from models.classifiers import classifier_folder
from models.classifiers.classifier_folder import SavedClassifier
from models.classifiers.fitting import FittingConfig, fit
from models.classifiers.pooled import PooledConfig
from tools.runs.loaded_run import LatentSpace
from tools.sample.noisy_classifiers.opening import latents_of


def train(
    *,
    run: str | Path,
    cache: str | Path,
    output: str | Path,
    width: int = 32,
    depth: int = 3,
    fitting: FittingConfig | None = None,
) -> SavedClassifier:
    """Train on all samples of a cache that have a class, in memory and on the CPU, and save the classifier.

    width, depth: as `PooledConfig` says.  UserError for a run without classes, and for a cache of other
    latents or classes.
    """
    space, dataset = LatentSpace.read(Path(run)), Dataset(Path(cache), "cache")
    require_latents(dataset)
    if not space.classes:
        raise UserError("run", run, "a run with classes")
    if (encoder := dataset.manifest.extra["made_from"]["encoder"]) != space.encoder:
        expected = f"latents of the run's autoencoder {space.encoder[:12]}; these are of {encoder[:12]}"
        raise UserError("cache", cache, expected)
    if (classes := tuple(dataset.manifest.classes)) != space.classes:
        raise UserError("cache", cache, f"the classes of the run: {list(space.classes)}, not {list(classes)}")
    channels = space.shapes[0][0]
    config = PooledConfig(channels=channels, classes=len(space.classes), width=width, depth=depth)
    latents = _latents(dataset, space)
    network = fit(config, latents, make_path(space.path), fitting or FittingConfig())
    return classifier_folder.save(Path(output), network, config, space.classes, latents_of(space))


def _latents(dataset: Dataset, space: LatentSpace) -> list[tuple[Tensor, Tensor]]:
    """Return the labelled samples of each shape: means (N, C, T, H, W) in the run's unit scale, classes."""
    reader, index = reader_of(dataset), dataset.index
    is_there = (np.asarray(index["size"]) > 0) & (np.asarray(index["label"]) >= 0)
    buckets, found = np.asarray(index["bucket"]), []
    for bucket in np.unique(buckets[is_there]):
        rows = np.flatnonzero(is_there & (buckets == bucket))
        means = space.normaliser.apply(reader.gather(rows)[:, 0].float())
        found.append((means.clone(), torch.from_numpy(np.asarray(index["label"])[rows].astype(np.int64))))
    if not found:
        raise UserError("cache", dataset.place, "samples with a class")
    return found
