"""Train a diffusion transformer on latents, cached or made as it goes; the same command continues the run."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from core import distributed
from core.batch import Batch, Condition
from core.compiled import compile_blocks, compiled_graphs, warm_up
from core.config import to_dict
from core.diffusion.objective import Model, Objective, ObjectiveConfig
from core.distributed import World
from core.draws import Draws
from core.ema import EmaConfig
from core.engine_config import EngineConfig
from core.errors import UserError
from core.losses import Losses
from core.metrics import MetricsConfig
from core.optim import OptimizerConfig
from core.outputs import claim
from core.progress import say
from core.recompute import checkpoint_blocks
from core.sequence import data_world, make_sequence_group
from core.settings import REQUIRED, setting
from core.trainer import FINISHED, Trainer, TrainerConfig
from core.validation import ValidationConfig, whole_steps
from data.index import Dataset
from data.latents import Normaliser, sample_posterior
from data.loader import LatentLoader
from data.texts import text_shape
from models.dit import DiT, DiTConfig, count_parameters
from models.flops import train_flops
from tools.latent_space import (
    LatentsConfig,
    choose_normaliser,
    encoder_fingerprint,
    find_autoencoder,
    keep_latent_space,
    latent_shapes,
    text_encoder,
)
from tools.online import DataConfig, OnlineCache, OnlineLoader, OnlineObjective
from tools.workload import flops, tokens


@dataclass(frozen=True, kw_only=True)
class Config:
    """One training run of a denoiser."""

    source: str = setting(
        REQUIRED, "latent cache, as `encode` writes it; a raw dataset where data.encode=online"
    )
    output: str = setting(REQUIRED, "run folder: config, metrics, checkpoints and what sampling needs")
    seed: int = setting(0, "seed of the weights, the order of samples and every draw", low=0)
    overwrite: bool = setting(False, "begin anew, removing what an earlier run left in the output")
    processes: int = setting(1, "ranks on this machine", low=1)
    autoencoder: str = setting(
        "", "folder of the autoencoder; another one made the cache: refused. '' is the one of encode"
    )
    model: DiTConfig = setting(DiTConfig(), "the network")
    objective: ObjectiveConfig = setting(ObjectiveConfig(), "what it learns")
    data: DataConfig = setting(DataConfig(), "what makes up a step, and whether latents are cached")
    latents: LatentsConfig = setting(LatentsConfig(), "what the network sees of latents")
    optimizer: OptimizerConfig = setting(OptimizerConfig(), "how weights are updated")
    engine: EngineConfig = setting(EngineConfig(), "how ranks share the work")
    ema: EmaConfig = setting(EmaConfig(), "averages of the weights; sampling uses the first")
    trainer: TrainerConfig = setting(TrainerConfig(), "how long, and which checkpoints stay")
    metrics: MetricsConfig = setting(MetricsConfig(), "what is reported")
    validation: ValidationConfig = setting(ValidationConfig(), "the loss on fixed samples, from time to time")
    validation_source: str = setting("", "samples to validate on, like `source`; '' takes training samples")

    def __post_init__(self) -> None:
        if self.objective.learned_sigma and not self.model.learned_sigma:
            raise UserError("model.learned_sigma", False, "true, since objective.learned_sigma=true")


Loader = LatentLoader | OnlineLoader


class LatentObjective:
    """The denoiser's loss on a batch of the cache: draw latents, normalise them, then diffuse."""

    def __init__(self, config: ObjectiveConfig, normaliser: Normaliser, *, frame_condition: bool) -> None:
        self._normaliser, self._objective = normaliser, Objective(config, frame_condition=frame_condition)

    def loss(self, model: Model, batch: Batch, draws: Draws) -> Losses:
        """batch.x: moments (B, M, C, T, H, W)."""
        latents = self._normaliser.apply(sample_posterior(batch.x, draws))
        return self._objective.loss(model, latents, batch.condition, draws)


def plan(config: Config) -> list[str]:
    """Shapes, group sizes, parameters, arithmetic and disk space of the run."""
    dataset, _ = open_cache(config)
    loader = make_loader(config, dataset, World(0, config.processes, 0, torch.device("cpu")))
    steps, groups = config.trainer.steps, config.data.groups_per_step
    sizes, shares, shapes = loader.plan.group_sizes, loader.plan.weights, latent_shapes(dataset)
    samples = groups * sum(n * w for n, w in zip(sizes, shares, strict=True))
    flops = groups * sum(
        n * w * train_flops(config.model, shape[1:])
        for n, w, shape in zip(sizes, shares, shapes, strict=True)
    )
    parameters = count_parameters(config.model)
    kinds = 3 + len(config.ema.names)  # weights, two moments, the averages
    return [
        f"data: {len(dataset.index)} samples, {len(dataset.manifest.classes)} classes in {config.source}",
        *loader.plan.report(),
        f"model: {parameters:,} parameters",
        f"step: {samples:.0f} samples, {flops:.3e} floating-point operations",
        f"run: {steps} steps, {steps * samples:.3g} samples, {steps * flops:.3e} floating-point operations",
        f"checkpoint: {4 * kinds * parameters / 2**20:.1f} MiB, every {config.trainer.save_every} steps",
    ]


def run(config: Config) -> None:
    """Train to the end, from the newest checkpoint if there is one (all ranks of a job call this)."""
    dataset, autoencoder = open_cache(config)
    world = distributed.start(config.engine.device, config.engine.timeout_s)
    output, loader = Path(config.output), make_loader(config, dataset, world)
    state = distributed.on_first_rank(
        lambda: claim(output, config, done=FINISHED, overwrite=config.overwrite)
    )
    if state == "finished":
        say(f"{output} is finished; overwrite=true begins anew")
    else:
        train(config, dataset, loader, autoencoder, world)
    distributed.stop(world)


def train(config: Config, dataset: Dataset, loader: Loader, autoencoder: Path, world: World) -> None:
    """The run itself, in a folder that is claimed (collective: all ranks)."""
    from core.engine import Engine  # imports DeepSpeed, which takes seconds; a dry run needs none of it

    output = Path(config.output)
    if isinstance(dataset, OnlineCache):
        dataset.encoder.autoencoder.to(world.device)
        dataset.measure(distributed.on_first_rank(lambda: dataset.statistics(output)))
    distributed.on_first_rank(lambda: keep_space(config, dataset, autoencoder))
    for line in loader.plan.report():
        say(line)
    torch.manual_seed(config.seed)
    model = DiT(config.model, make_sequence_group(world, config.engine.sequence_parallel))
    checkpoint_blocks(model.blocks, config.engine)
    engine = Engine(model, config.engine, config.optimizer, world)
    frames = config.model.frame_condition
    objective: LatentObjective | OnlineObjective = LatentObjective(
        config.objective, choose_normaliser(dataset, config.latents), frame_condition=frames
    )
    if isinstance(dataset, OnlineCache):
        objective = OnlineObjective(dataset, objective)
    trainer = Trainer(
        engine,
        objective,
        loader,
        config.trainer,
        folder=output,
        seed=config.seed,
        ema=config.ema,
        metrics=config.metrics,
        fingerprints={"data": dataset.manifest.fingerprint, "encoder": encoder_fingerprint(dataset)},
        run_config=to_dict(config),
        validation=config.validation,
        validation_batches=validation_batches(config, dataset, loader, world),
        tokens_of=lambda batch: tokens(config.model, dataset, batch),
        flops_of=lambda batch: flops(config.model, dataset, batch),
    )
    if config.engine.compile:
        text = text_shape(dataset.manifest) if config.model.text_width else None
        fit_compiled(trainer, model, micro_batch_shapes(dataset, loader), text)
    else:
        trainer.fit()


def fit_compiled(
    trainer: Trainer, model: DiT, shapes: list[tuple[int, ...]], text: tuple[int, int] | None
) -> None:
    """Compile the blocks for all `shapes`, train, and say whether that was all that had to be compiled."""
    compile_blocks(model.blocks)
    device = trainer.engine.world.device
    examples = [compile_example(shape, device, text) for shape in shapes]
    before = warm_up(model, examples)
    say(f"compiled {before} graphs for {len(shapes)} shapes of a micro-batch")
    trainer.fit()
    say(f"compiled {compiled_graphs() - before} graphs after the first step began")


def open_cache(config: Config) -> tuple[Dataset, Path]:
    """The cache and its autoencoder's folder; UserError unless cache, encoder and network fit each other."""
    dataset = open_dataset(config)
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
        return dataset, Path(config.autoencoder)
    return dataset, find_autoencoder(dataset, config.autoencoder)


def require_text(config: Config, dataset: Dataset) -> None:
    """UserError unless the network takes no text, or text as wide as the cache holds it."""
    found, width = text_encoder(dataset), config.model.text_width
    if width and (found is None or width != found["width"]):
        what = "since it holds no text" if found is None else f"or {found['width']}, the width of its text"
        raise UserError("model.text_width", width, f"0 for {config.source}, {what}")


def keep_space(config: Config, dataset: Dataset, autoencoder: Path) -> None:
    """Put into the run folder what sampling needs beside the weights."""
    run, text = Path(config.output), config.model.text_width > 0
    keep_latent_space(run, dataset, autoencoder, config.objective, config.latents, text=text)


def open_dataset(config: Config) -> Dataset:
    """The cache, or the raw dataset as the cache it would be."""
    if config.data.encode == "online":
        if not config.autoencoder:
            raise UserError("autoencoder", "''", "a folder, since data.encode=online")
        return OnlineCache(config.source, Path(config.autoencoder), config.data.online)
    dataset = Dataset(Path(config.source))
    if dataset.manifest.kind != "latent":
        expected = "a latent cache; this is a raw dataset: encode it first, or set data.encode=online"
        raise UserError("source", config.source, expected)
    return dataset


def make_loader(config: Config, dataset: Dataset, world: World) -> Loader:
    """This rank's batches."""
    micro_batch, patch = config.engine.micro_batch, config.model.patch
    world = data_world(world, config.engine.sequence_parallel)
    if isinstance(dataset, OnlineCache):
        run = Path(config.output)
        return OnlineLoader(dataset, config.data, world, config.seed, micro_batch, patch=patch, run=run)
    text = config.model.text_width > 0
    return LatentLoader(dataset, config.data, world, config.seed, micro_batch, patch=patch, text=text)


def validation_batches(
    config: Config, dataset: Dataset, loader: Loader, world: World
) -> Callable[[], Iterable[Batch]]:
    """This rank's part of the samples to validate on, the same at every call: those of the first steps."""
    if config.validation_source:
        if config.data.encode == "online":
            raise UserError("validation_source", config.validation_source, "'' with data.encode=online")
        config = replace(config, source=config.validation_source)
        held_out, _ = open_cache(config)
        if encoder_fingerprint(held_out) != encoder_fingerprint(dataset):
            raise UserError("validation_source", config.source, "a cache made by the encoder of `source`")
        loader = make_loader(config, held_out, world)
    ranks = world.size // config.engine.sequence_parallel
    return lambda: whole_steps(loader.load, config.validation.samples, ranks)


def micro_batch_shapes(dataset: Dataset, loader: Loader) -> list[tuple[int, ...]]:
    """(b, C, T, H, W) of every micro-batch that a rank will ever take."""
    plan, found = loader.plan, []
    for shape, size, weight in zip(latent_shapes(dataset), plan.group_sizes, plan.weights, strict=True):
        share = size // plan.ranks
        most = plan.micro_batch or share
        found += [(n, *shape) for n in (min(most, share), share % most) if n and weight]
    return list(dict.fromkeys(found))


def compile_example(
    shape: tuple[int, ...], device: torch.device, text: tuple[int, int] | None
) -> tuple[Tensor, Tensor, Condition]:
    """What a DiT gets of a micro-batch (b, C, T, H, W). text: (L, D) of each sample."""
    label = torch.zeros(shape[0], dtype=torch.int64, device=device)
    condition = Condition(label=label)
    if text is not None:
        tokens = torch.zeros((shape[0], *text), dtype=torch.float16, device=device)
        condition = Condition(label=label, text=tokens, text_length=label)
    return torch.zeros(shape, device=device), label.float(), condition
