"""Train a diffusion transformer on latents, cached or made as it goes; the same command continues the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from core.batch import Batch
from core.config.loading import to_dict
from core.distributed import ranks
from core.distributed.ranks import World
from core.distributed.sequence import make_sequence_group
from core.engine.activation_checkpointing import checkpoint_blocks
from core.engine.compiling import compile_blocks, compiled_graphs, warm_up
from core.progress import counted, say
from core.run.claim import claim_run
from core.train.feed import Feed
from core.train.trainer import FINISHED, Trainer
from data.dataset.index import Dataset
from data.loading.loader import LatentLoader
from models.attention.choice import settle
from models.denoisers.dit import DiT, count_parameters
from models.denoisers.flops import train_flops
from models.layers.fp8 import use_fp8
from tools.runs.latent_space import (
    choose_normaliser,
    encoder_fingerprint,
    latent_shapes,
)
from tools.train.config import Config
from tools.train.online import OnlineCache, OnlineObjective
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
    world = ranks.start(config.engine.device, config.engine.timeout_s, folder=Path(config.output))
    output, loader = Path(config.output), make_loader(config, dataset, world)
    validated = validation_data(config, dataset, loader, world)
    # Where no step depends on the last one's number, a longer run begins as the shorter one did.
    longer = ("trainer.steps",) if config.optimizer.schedule == "constant" else ()
    if ranks.on_first_rank(lambda: claim_run(output, config, done=FINISHED, may_grow=longer)):
        train(config, dataset, loader, validated, autoencoder, world)
        more = "output=... prompts=..." if config.model.text_width else "output=..."
        steps = counted(config.trainer.steps, "step")
        say(f"{output}: trained {steps}; next: longtake sample {output} {more}")
    ranks.stop(world)


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
        dataset.measure(ranks.on_first_rank(lambda: dataset.statistics(output)))
    ranks.on_first_rank(lambda: keep_space(config, dataset, autoencoder))
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
    lengths = [config.model.tokens((t, h, w)) for *_, t, h, w in shapes]
    model.use_attention(settle(model.attention_heads, world.device, dtype, lengths, Path(config.output)))
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
