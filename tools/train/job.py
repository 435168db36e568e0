"""Train a diffusion transformer on latents, cached or made as it goes; the same command continues the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from core.averages.ema import EmaConfig
from core.batch import Batch
from core.config.loading import to_dict
from core.config.settings import REQUIRED, setting
from core.diffusion.objective import ObjectiveConfig
from core.distributed import ranks as distributed
from core.distributed.ranks import World
from core.distributed.sequence import make_sequence_group
from core.engine.activation_checkpointing import checkpoint_blocks
from core.engine.compiling import compile_blocks, compiled_graphs, warm_up
from core.engine.config import EngineConfig
from core.errors import UserError
from core.metrics.rows import MetricsConfig
from core.optim.groups import OptimizerConfig
from core.progress import counted, say
from core.run.claim import claim_run
from core.train.feed import Feed
from core.train.trainer import FINISHED, Trainer, TrainerConfig
from core.train.validation import ValidationConfig
from data.dataset.index import Dataset
from data.loading.loader import LatentLoader
from models.attention.by_heads import by_ring
from models.attention.choice import settle
from models.denoisers.dit import DiT, DiTConfig, count_parameters
from models.denoisers.flops import train_flops
from models.layers.fp8 import use_fp8
from tools.runs.latent_space import (
    LatentsConfig,
    choose_normaliser,
    encoder_fingerprint,
    latent_shapes,
)
from tools.train.online import DataConfig, OnlineCache, OnlineObjective
from tools.train.setup import (
    LatentObjective,
    Loader,
    compile_examples,
    keep_space,
    make_loader,
    measure_groups,
    micro_batch_shapes,
    open_cache,
    read_prepared,
    validation_batches,
    validation_data,
)
from tools.train.workload import Workload


@dataclass(frozen=True, kw_only=True)
class Config:
    """One training run of a denoiser."""

    source: str = setting(
        REQUIRED,
        "latent cache, as `encode` writes it; a raw dataset where data.encode=online",
        shown="path or URL",
    )
    output: str = setting(
        REQUIRED, "run folder: config, metrics, checkpoints and what sampling needs", shown="path"
    )
    seed: int = setting(0, "seed of the weights, the order of samples and every draw", low=0, high=2**63 - 1)
    overwrite: bool = setting(
        False,
        "begin anew, removing what an earlier run left in the output; a job that is requeued or restarted "
        "goes on with what it has begun",
    )
    processes: int = setting(1, "ranks on this machine", low=1)
    autoencoder: str = setting(
        "",
        "folder of the autoencoder; another one made the cache: refused. '' is the one of encode",
        shown="path",
    )
    model: DiTConfig = setting(DiTConfig(), "the network")
    objective: ObjectiveConfig = setting(ObjectiveConfig(), "what it learns")
    data: DataConfig = setting(DataConfig(), "what makes up a step, and whether latents are cached")
    latents: LatentsConfig = setting(LatentsConfig(), "what the network sees of latents")
    optimizer: OptimizerConfig = setting(OptimizerConfig(), "how weights are updated")
    engine: EngineConfig = setting(EngineConfig(), "how ranks share the work")
    ema: EmaConfig = setting(EmaConfig(), "averages of the weights; sampling uses the first")
    trainer: TrainerConfig = setting(TrainerConfig(), "how long, and which checkpoints stay")
    metrics: MetricsConfig = setting(MetricsConfig(), "what is reported (docs/metrics.md)")
    validation: ValidationConfig = setting(ValidationConfig(), "the loss on fixed samples, from time to time")
    validation_source: str = setting(
        "", "samples to validate on, like `source`; '' takes training samples", shown="path or URL"
    )

    def __post_init__(self) -> None:
        if self.objective.learned_sigma and not self.model.learned_sigma:
            raise UserError("model.learned_sigma", False, "true, since objective.learned_sigma=true")
        heads, ranks = self.model.heads, self.engine.sequence_parallel
        if self.model.attention != "auto" and by_ring(heads, ranks):
            reason = f"{heads} heads cannot be shared evenly by engine.sequence_parallel={ranks} ranks"
            expected = f"auto, since {reason}, so keys go around a ring, which has products of its own"
            raise UserError("model.attention", self.model.attention, expected)


def plan(config: Config) -> list[str]:
    """Shapes, group sizes, parameters, arithmetic and disk space of the run."""
    dataset, _ = open_cache(config)
    world = World(0, config.processes, 0, torch.device("cpu"))
    loader = make_loader(config, dataset, world)
    validation_data(config, dataset, loader, world)
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
        f"data: {len(dataset)} samples, {len(dataset.manifest.classes)} classes in {dataset.place}",
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
    validated = validation_data(config, dataset, loader, world)
    # Where no step depends on the last one's number, a longer run begins as the shorter one did.
    longer = ("trainer.steps",) if config.optimizer.schedule == "constant" else ()
    if distributed.on_first_rank(lambda: claim_run(output, config, done=FINISHED, may_grow=longer)):
        train(config, dataset, loader, validated, autoencoder, world)
        more = "output=... prompts=..." if config.model.text_width else "output=..."
        steps = counted(config.trainer.steps, "step")
        say(f"{output}: trained {steps}; next: longtake sample {output} {more}")
    distributed.stop(world)


def train(
    config: Config,
    dataset: Dataset,
    loader: Loader,
    validated: tuple[Dataset, Loader],
    autoencoder: Path,
    world: World,
) -> None:
    """The run itself, in a folder that is claimed (collective: all ranks)."""
    from core.engine.engine import (
        Engine,  # imports DeepSpeed, which takes seconds; a dry run needs none of it
    )

    output = Path(config.output)
    if isinstance(dataset, OnlineCache):
        dataset.to(world.device)
        dataset.measure(distributed.on_first_rank(lambda: dataset.statistics(output)))
    distributed.on_first_rank(lambda: keep_space(config, dataset, autoencoder))
    for line in loader.plan.report():
        say(line)
    model = make_network(config, micro_batch_shapes(dataset, loader) + micro_batch_shapes(*validated), world)
    engine = Engine(model, config.engine, config.optimizer, world)
    normaliser, frames = choose_normaliser(dataset, config.latents), config.model.frame_condition
    latents = LatentObjective(config.objective, normaliser, frame_condition=frames)
    trainer = Trainer(
        engine,
        OnlineObjective(dataset, latents) if isinstance(dataset, OnlineCache) else latents,
        make_feed(config, dataset, loader, validated[1], latents, world),
        config.trainer,
        folder=output,
        seed=config.seed,
        ema=config.ema,
        metrics=config.metrics,
        fingerprints={"data": dataset.manifest.fingerprint, "encoder": encoder_fingerprint(dataset)},
        run_config=to_dict(config),
        validation=config.validation,
    )
    if config.engine.compile:
        others = compile_examples(config, *validated, world.device) if config.validation.every else []
        fit_compiled(trainer, model, compile_examples(config, dataset, loader, world.device), others)
    else:
        trainer.fit()


def make_network(config: Config, shapes: list[tuple[int, ...]], world: World) -> DiT:
    """The network as it is trained, with backends for inputs of these shapes (collective: all ranks)."""
    torch.manual_seed(config.seed)
    model = DiT(config.model, make_sequence_group(world, config.engine.sequence_parallel))
    dtype = torch.bfloat16 if config.engine.precision == "bf16" else torch.float32
    settle(model, world.device, dtype, shapes, Path(config.output))
    if config.engine.matmul == "fp8":
        use_fp8(model.blocks, world.device)
    checkpoint_blocks(model.blocks, config.engine)
    return model


def make_feed(
    config: Config,
    dataset: Dataset,
    loader: Loader,
    validated: Loader,
    latents: LatentObjective,
    world: World,
) -> Feed:
    """What the trainer learns from; for a network on the CPU the thread that reads prepares its input too."""
    batches: Callable[[int], Iterator[list[Batch]]] = loader
    if isinstance(loader, LatentLoader) and world.device.type == "cpu":
        batches = read_prepared(loader, latents, config.seed)
    return Feed(
        batches=batches,
        largest=loader.largest,
        validation=validation_batches(config, validated, world),
        work_of=Workload(config.model, dataset).of,
        shape_times=measure_groups(dataset, loader, world),
    )


def fit_compiled(
    trainer: Trainer, model: DiT, trained: list[tuple[Any, ...]], validated: list[tuple[Any, ...]]
) -> None:
    """Compile the blocks for all that is trained and validated on, train, and say whether that was all."""
    compile_blocks(model.blocks)
    before = warm_up(model, trained, validated)
    say(f"compiled {before} graphs for {len(trained)} shapes of a micro-batch")
    trainer.fit()
    say(f"compiled {compiled_graphs() - before} graphs after the first step began")
