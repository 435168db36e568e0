"""What training begins with: a cache that fits the network, its batches, and what the run keeps of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from core.batch import Batch, Condition
from core.diffusion.objective import Model, Noised, Objective, ObjectiveConfig
from core.distributed.ranks import World
from core.distributed.sequence import data_world
from core.draws import Draws
from core.errors import UserError
from core.losses import Losses
from core.metrics.shape_times import ShapeTimes
from core.progress import say
from core.train.validation import SEED, whole_steps
from data.dataset.index import Dataset
from data.latent.mixture import Mixture
from data.latent.normalising import Normaliser, sample_posterior
from data.latent.texts import text_shape
from data.loading.loader import LatentLoader
from models.autoencoder.store import locate
from tools.runs.latent_space import (
    choose_normaliser,
    encoder_fingerprint,
    find_autoencoder,
    keep_latent_space,
    latent_shapes,
    recorded,
    text_encoder,
)
from tools.train.online import OnlineCache, OnlineLoader

if TYPE_CHECKING:
    from tools.train.config import Config

Loader = LatentLoader | OnlineLoader
Preparing = Callable[[int, Callable[[int, Batch], Batch]], Iterator[list[Batch]]]


class LatentObjective:
    """The denoiser's loss on a batch of the cache: draw latents, normalise them, then diffuse."""

    def __init__(self, config: ObjectiveConfig, normaliser: Normaliser, *, frame_condition: bool) -> None:
        self._normaliser, self._objective = normaliser, Objective(config, frame_condition=frame_condition)

    def loss(self, model: Model, batch: Batch, draws: Draws) -> Losses:
        """batch.x: moments (B, M, C, T, H, W)."""
        ready: Prepared | None = batch.prepared
        if ready is None or (ready.seed, ready.step) != (draws.seed, draws.step):
            ready = self.prepare(batch, draws)
        return self._objective.loss_of(model, ready.noised)

    @torch.no_grad()
    def prepare(self, batch: Batch, draws: Draws) -> Prepared:
        """All of `loss` that comes before the network."""
        latents = self._normaliser.apply(sample_posterior(batch.x, draws))
        return Prepared(draws.seed, draws.step, self._objective.noised(latents, batch.condition, draws))


@dataclass(frozen=True)
class Prepared:
    """A batch as the network will see it under the draws of a seed and step."""

    seed: int
    step: int
    noised: Noised


def open_cache(config: Config, field: str = "source") -> tuple[Dataset, Path]:
    """The cache and its autoencoder's folder; UserError unless cache, encoder and network fit each other.

    field: what `config.source` is called where the person wrote it.
    """
    dataset = open_dataset(config, field)
    for channels, *shape in latent_shapes(dataset):
        if channels != config.model.input_channels:
            raise UserError(
                "model.input_channels", config.model.input_channels, f"{channels}, those of {config.source}"
            )
        config.model.grid((shape[0], shape[1], shape[2]))
    classes = len(dataset.manifest.classes)
    if classes > config.model.num_classes:
        raise UserError(
            "model.num_classes", config.model.num_classes, f"at least {classes}, those of {config.source}"
        )
    require_text(config, dataset)
    if config.latents.normalise == "encoder":
        choose_normaliser(dataset, config.latents)
    if isinstance(dataset, OnlineCache):
        return dataset, locate(Path(config.autoencoder))
    return dataset, find_autoencoder(dataset, config.autoencoder)


def require_text(config: Config, dataset: Dataset) -> None:
    """UserError unless the network takes no text, or text as wide as the cache holds it."""
    found, width = text_encoder(dataset), config.model.text_width
    if not width:
        return
    if found is None:
        field = "data.online.text_encoder" if config.data.encode == "online" else "text_encoder= of encode"
        raise UserError("model.text_width", width, f"0 for {config.source}, since it holds no text ({field})")
    if width != found["width"]:
        expected = f"0 for {config.source}, or {found['width']}, the width of its text"
        raise UserError("model.text_width", width, expected)
    if not dataset.manifest.extra["longest_text"]:
        expected = f"0 for {config.source}, since none of its samples has a caption"
        raise UserError("model.text_width", width, expected)


def keep_space(config: Config, dataset: Dataset, autoencoder: Path) -> None:
    """Put into the run folder what sampling needs beside the weights."""
    folder = None
    if config.model.text_width:
        online = config.data.encode == "online"
        folder = config.data.online.text_encoder if online else recorded(dataset.folder, "text_encoder")
    run = Path(config.output)
    keep_latent_space(run, dataset, autoencoder, config.objective, config.latents, text_folder=folder)


def open_dataset(config: Config, field: str) -> Dataset:
    """The cache, the caches as one, or the raw dataset as the cache it would be."""
    if config.data.encode == "online":
        if not config.autoencoder:
            raise UserError("autoencoder", "''", "a folder, since data.encode=online")
        return OnlineCache(config.source, Path(config.autoencoder), config.data.online)
    dataset = Dataset(config.source, field)
    if dataset.manifest.kind != "latent":
        expected = "a latent cache; this is a raw dataset: encode it first, or set data.encode=online"
        raise UserError(field, config.source, expected)
    if not config.data.also:
        return dataset
    caches = [dataset, *(Dataset(place, "data.also") for place in config.data.also)]
    return Mixture(caches, config.data.mix, text=config.model.text_width > 0)


def make_loader(config: Config, dataset: Dataset, world: World) -> Loader:
    """This rank's batches."""
    micro_batch, patch, text = config.engine.micro_batch, config.model.patch, config.model.text_width > 0
    world = data_world(world, config.engine.sequence_parallel)
    if isinstance(dataset, OnlineCache):
        run = Path(config.output)
        return OnlineLoader(
            dataset, config.data, world, config.seed, micro_batch, patch=patch, run=run, text=text
        )
    return LatentLoader(dataset, config.data, world, config.seed, micro_batch, patch=patch, text=text)


def read_prepared(
    loader: Preparing, objective: LatentObjective, seed: int
) -> Callable[[int], Iterator[list[Batch]]]:
    """The loader's steps, of which the thread that reads ahead also makes what the network will be shown.

    For a network on the CPU; a GPU makes the same itself, in less time than it would take to send.
    """

    def prepare(step: int, batch: Batch) -> Batch:
        draws = Draws(seed, step, batch.id, batch.position)
        return replace(batch, prepared=objective.prepare(batch, draws))

    return lambda first_step: loader(first_step, prepare)


def validation_data(config: Config, dataset: Dataset, loader: Loader, world: World) -> tuple[Dataset, Loader]:
    """What to validate on: held-out samples where they are given, the same whatever the run's seed, else
    those of the run's first steps."""
    if config.validation_source:
        if config.data.encode == "online":
            raise UserError("validation_source", config.validation_source, "'' with data.encode=online")
        alone = replace(config.data, also=(), mix=())
        config = replace(config, source=config.validation_source, data=alone, seed=SEED)
        held_out, _ = open_cache(config, "validation_source")
        if encoder_fingerprint(held_out) != encoder_fingerprint(dataset):
            raise UserError("validation_source", config.source, "a cache made by the encoder of `source`")
        return held_out, make_loader(config, held_out, world)
    return dataset, loader


def validation_batches(config: Config, loader: Loader, world: World) -> Callable[[], Iterable[Batch]]:
    """This rank's part of the samples to validate on, the same at every call: those of the first steps.

    loader: of `validation_data`.
    """
    ranks = world.size // config.engine.sequence_parallel
    return lambda: whole_steps(loader.load, config.validation.samples, ranks)


def measure_groups(dataset: Dataset, loader: Loader, world: World) -> ShapeTimes:
    """What measures groups over the first steps, and says how their times spread."""
    shapes = [tuple(shape) for shape in dataset.manifest.buckets]
    if isinstance(dataset, OnlineCache):
        shapes = [(3, *bucket) for bucket in dataset.buckets]

    def report(seconds: Mapping[tuple[int, ...], float]) -> None:
        for line in loader.plan.report_times([seconds.get(shape) for shape in shapes]):
            say(line)

    used = {shape for shape, weight in zip(shapes, loader.plan.weights, strict=True) if weight}
    return ShapeTimes(used, world.device, report)


def micro_batch_shapes(dataset: Dataset, loader: Loader) -> list[tuple[int, ...]]:
    """(b, C, T, H, W) of every micro-batch that a rank will ever take."""
    plan, found = loader.plan, []
    for shape, size, weight in zip(latent_shapes(dataset), plan.group_sizes, plan.weights, strict=True):
        share = size // plan.ranks
        most = plan.micro_batch or share
        found += [(n, *shape) for n in (min(most, share), share % most) if n and weight]
    return list(dict.fromkeys(found))


def compile_examples(
    config: Config, dataset: Dataset, loader: Loader, device: torch.device
) -> list[tuple[Tensor, Tensor, Condition]]:
    """What the network gets of each micro-batch shape that there is."""
    text = text_shape(dataset.manifest) if config.model.text_width else None
    return [_example(shape, device, text) for shape in micro_batch_shapes(dataset, loader)]


def _example(
    shape: tuple[int, ...], device: torch.device, text: tuple[int, int] | None
) -> tuple[Tensor, Tensor, Condition]:
    """What a DiT gets of a micro-batch (b, C, T, H, W). text: (L, D) of each sample."""
    label = torch.zeros(shape[0], dtype=torch.int64, device=device)
    condition = Condition(label=label)
    if text is not None:
        tokens = torch.zeros((shape[0], *text), dtype=torch.float16, device=device)
        condition = Condition(label=label, text=tokens, text_length=label)
    return torch.zeros(shape, device=device), label.float(), condition
