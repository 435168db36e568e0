"""Train the autoencoder that turns images and clips into latents; the same command again continues."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from einops import reduce
from torch import Tensor

from core.averages.ema import EmaConfig
from core.batch import Batch
from core.config.loading import to_dict
from core.config.settings import REQUIRED, setting
from core.distributed import ranks
from core.distributed.ranks import World
from core.draws import Draws
from core.engine.config import EngineConfig
from core.errors import UserError
from core.losses import Losses
from core.metrics.rows import MetricsConfig
from core.optim.groups import OptimizerConfig
from core.progress import say
from core.run.claim import claim_run
from core.train.feed import Feed
from core.train.trainer import Trainer, TrainerConfig
from data.dataset.index import Dataset
from data.dataset.quarantine import QUARANTINE, Quarantine
from data.loading.pixels import PixelConfig, PixelLoader
from data.order.buckets import Bucket
from models.autoencoder import store
from models.autoencoder.kl import Autoencoder, AutoencoderConfig
from models.autoencoder.store import save
from models.weights import shapes_only
from tools.train_autoencoder.reconstruct import reconstruct, scores, show

RECONSTRUCTIONS = "reconstructions.png"
Model = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True, kw_only=True)
class ReconstructionConfig:
    """What the autoencoder minimises."""

    squared: float = setting(1.0, "weight of the squared error per pixel", low=0)
    absolute: float = setting(0.0, "weight of the absolute error per pixel", low=0)
    kl: float = setting(
        1e-4,
        "weight of the divergence per latent number from a standard normal; more makes latents smoother",
        unit="1/nat",
        low=0,
    )

    def __post_init__(self) -> None:
        if self.squared == self.absolute == 0:
            raise UserError("squared", 0, "more than 0, or absolute more than 0")


@dataclass(frozen=True, kw_only=True)
class Config:
    """One training run of an autoencoder."""

    source: str = setting(REQUIRED, "raw dataset, as `shard` writes it", shown="path or URL")
    output: str = setting(REQUIRED, "run folder; the result is in its autoencoder/", shown="path")
    seed: int = setting(0, "seed of the weights, the order of samples and every draw", low=0, high=2**63 - 1)
    overwrite: bool = setting(
        False,
        "begin anew, removing what an earlier run left in the output; a job that is requeued or restarted "
        "goes on with what it has begun",
    )
    processes: int = setting(1, "ranks on this machine", low=1)
    model: AutoencoderConfig = setting(AutoencoderConfig(), "the network")
    objective: ReconstructionConfig = setting(ReconstructionConfig(), "what it learns")
    data: PixelConfig = setting(PixelConfig(part="train"), "what makes up a step, and what is never learned")
    optimizer: OptimizerConfig = setting(OptimizerConfig(), "how weights are updated")
    engine: EngineConfig = setting(EngineConfig(), "how ranks share the work")
    ema: EmaConfig = setting(EmaConfig(decay=0.999), "averages of the weights; the first is the result")
    trainer: TrainerConfig = setting(TrainerConfig(), "how long, and which checkpoints stay")
    metrics: MetricsConfig = setting(MetricsConfig(), "what is reported")
    score_samples: int = setting(256, "held-out samples of each bucket that are scored at most", low=1)

    def __post_init__(self) -> None:
        if self.data.part != "train":
            raise UserError("data.part", self.data.part, "train: the score is that of held-out samples")
        for name in ("sequence_parallel", "activation_checkpointing", "compile"):
            value, usual = getattr(self.engine, name), getattr(EngineConfig(), name)
            if value != usual:
                raise UserError(f"engine.{name}", value, f"{usual}; only transformers can do this")


class ReconstructionObjective:
    """Error of the reconstruction from a drawn latent, and divergence of the posterior (arXiv:1312.6114)."""

    def __init__(self, config: ReconstructionConfig, model: AutoencoderConfig) -> None:
        self._config, self._model = config, model

    def loss(self, model: Model, batch: Batch, draws: Draws) -> Losses:
        """batch.x: pixels (B, 3, T, H, W).  Means over the pixels and over the latent numbers of a sample."""
        config, pixels = self._config, batch.x
        shape = self._model.latent_shape((pixels.shape[2], pixels.shape[3], pixels.shape[4]))
        noise = draws.normal("posterior", (self._model.latent_channels, *shape))
        reconstruction, moments = model(pixels, noise)
        mean, log_variance = moments.unbind(1)
        error = reconstruction - pixels
        squared, absolute = _mean(error.square()), _mean(error.abs())
        divergence = _mean(0.5 * (mean.square() + log_variance.exp() - 1 - log_variance))
        loss = config.squared * squared + config.absolute * absolute + config.kl * divergence
        return Losses(loss=loss, extras={"squared_error": squared, "divergence": divergence})


def plan(config: Config) -> list[str]:
    """Shapes, group sizes and parameters of the run."""
    dataset = Dataset(Path(config.source))
    loader = make_loader(config, dataset, World(0, config.processes, 0, torch.device("cpu")))
    with shapes_only():
        parameters = sum(parameter.numel() for parameter in Autoencoder(config.model).parameters())
    latents = (f"{bucket} -> {_times(config, bucket)}" for bucket in loader.buckets)
    return [
        f"data: {len(dataset)} samples in {config.source}, {config.data.held_out:.0%} of them held out",
        *loader.report(),
        f"latents: {config.model.latent_channels} channels, {', '.join(latents)}",
        f"model: {parameters:,} parameters",
        f"run: {config.trainer.steps} steps into {config.output}",
    ]


def run(config: Config) -> None:
    """Train to the end, from the newest checkpoint if there is one (all ranks of a job call this)."""
    dataset = Dataset(Path(config.source))
    make_loader(
        config, dataset, World(0, 1, 0, torch.device("cpu"))
    )  # what is wrong fails before any rank waits
    world = ranks.start(config.engine.device, config.engine.timeout_s)
    output, done = Path(config.output), f"{store.FOLDER}/{store.CONFIG}"
    if ranks.on_first_rank(lambda: claim_run(output, config, done=done)):
        train(config, dataset, world)
        ranks.on_first_rank(lambda: publish(config, dataset, world))
    ranks.stop(world)


def train(config: Config, dataset: Dataset, world: World) -> None:
    """The run itself, in a folder that is claimed (collective: all ranks)."""
    from core.engine.engine import (
        Engine,  # imports DeepSpeed, which takes seconds; a dry run needs none of it
    )

    aside = Path(config.output) / QUARANTINE
    quarantine = Quarantine(aside, total=len(dataset), budget=config.data.quarantine_budget)
    loader = make_loader(config, dataset, world, quarantine)
    for line in loader.report():
        say(line)
    torch.manual_seed(config.seed)
    Trainer(
        Engine(Autoencoder(config.model), config.engine, config.optimizer, world),
        ReconstructionObjective(config.objective, config.model),
        Feed(batches=loader, largest=loader.largest),
        config.trainer,
        folder=Path(config.output),
        seed=config.seed,
        ema=config.ema,
        metrics=config.metrics,
        fingerprints={"data": dataset.manifest.fingerprint},
        run_config=to_dict(config),
    ).fit()


def publish(config: Config, dataset: Dataset, world: World) -> None:
    """Score the averaged weights on held-out samples, and write them down last: that completes the run."""
    from core.checkpoint.weights import load_weights
    from data.media.pictures import write_png

    output = Path(config.output)
    autoencoder = Autoencoder(config.model).eval()
    autoencoder.load_state_dict(load_weights(output, "ema"))
    pairs = reconstruct(autoencoder.to(world.device), dataset, config.data, config.score_samples)
    result: dict[str, Any] = scores(pairs)
    if pairs:
        write_png(output / RECONSTRUCTIONS, show(pairs))
    save(autoencoder, output / store.FOLDER, result)
    told = ", ".join(f"{name} {value:.2f}" for name, value in result.items() if name.endswith("_db"))
    say(f"{output / store.FOLDER}: {told or 'no held-out samples to score'}")


def make_loader(
    config: Config, dataset: Dataset, world: World, quarantine: Quarantine | None = None
) -> PixelLoader:
    """This rank's batches; UserError for a bucket that the autoencoder cannot take."""
    micro_batch = config.engine.micro_batch
    loader = PixelLoader(dataset, config.data, world, config.seed, micro_batch, quarantine=quarantine)
    for bucket in loader.buckets:
        try:
            config.model.latent_shape(bucket)
        except UserError as error:
            raise UserError(f"data.buckets: {bucket} does not suit the autoencoder: {error}") from None
    return loader


def _mean(values: Tensor) -> Tensor:
    return reduce(values, "b c t h w -> b", "mean")


def _times(config: Config, bucket: Bucket) -> str:
    return "x".join(map(str, config.model.latent_shape(bucket)))
