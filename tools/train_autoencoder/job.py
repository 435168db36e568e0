"""Train the autoencoder that turns images and clips into latents; the same command continues the run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from core.averages.ema import EmaConfig
from core.config.loading import from_dict, to_dict
from core.config.sections import section
from core.config.values import any_of
from core.distributed import ranks
from core.distributed.ranks import World
from core.engine.config import EngineConfig
from core.errors import UserError, below
from core.metrics.rows import MetricsConfig
from core.optim.groups import OptimizerConfig
from core.preflight.check import look_over_nodes
from core.progress import counted, say
from core.run.claim import claim_run
from core.run.folder import AUTOENCODER
from core.train.config import TrainerConfig
from core.train.single import SingleStepper
from core.train.trainer import Trainer
from core.train.training_data import TrainingData
from data.dataset.faults import require_no_program_errors
from data.dataset.index import Dataset
from data.dataset.quarantine import Quarantine
from data.dataset.schema import QUARANTINE
from data.loading import uploading
from data.loading.pixels import PixelConfig, PixelLoader
from data.order.buckets import Bucket
from data.raw.decoding import decoding_identity
from models.autoencoder import store
from models.autoencoder.interface import FIRST, AutoencoderConfig
from models.autoencoder.kinds import KINDS
from models.autoencoder.store import save
from models.transfer import Transfer, plan_transfer
from tools.runs.begun import StartingPoint, begin_from, starting_point
from tools.runs.continuing import raw_contents, require_trackers, steps_made
from tools.runs.memory.engine_choices import settle_engine
from tools.runs.memory.micro_batches import foreseen, keep_numbers, settle_micro_batches
from tools.runs.memory.zero_stage import foreseen_zero_stage, settle_zero_stage
from tools.runs.run_hours import hours_line
from tools.train_autoencoder.config import Config, ReconstructionConfig
from tools.train_autoencoder.pixel_memory import memory_of
from tools.train_autoencoder.reconstruct import reconstruct, scores, show
from tools.train_autoencoder.reconstruction_loss import ReconstructionObjective

RECONSTRUCTIONS = "reconstructions.png"
DONE = f"{AUTOENCODER}/{store.CONFIG}"  # in the output: completes it


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings of the job by which a run is trained whose folder is claimed, by the same names."""

    seed: int
    model: AutoencoderConfig
    objective: ReconstructionConfig
    data: PixelConfig
    optimizer: OptimizerConfig
    engine: EngineConfig
    ema: EmaConfig
    trainer: TrainerConfig
    metrics: MetricsConfig


def plan(config: Config) -> list[str]:
    """Describe the shapes, group sizes, parameters and memory of the run."""
    require_trackers(Path(config.output), config.metrics, overwrite=config.overwrite, done=DONE)
    dataset = open_source(config.source, config.data)
    world, most = ranks.planned(config.engine.device, config.processes), config.engine.most_at_once
    loader = make_loader(dataset, config.data, config.model, world, config.seed, most)
    parts = (config.model, config.objective, config.ema, config.optimizer, loader, config.data.prefetch)
    output = Path(config.output)
    engine, stage = foreseen_zero_stage(config.engine, partial(memory_of, *parts), world, output)
    memory = memory_of(*parts, engine)
    takes = [*stage, *foreseen(memory, world, output)]
    beginning = find_beginning(starting_point(config, claimed=False), config.model)
    latents = (f"{bucket} -> {_times(config.model, bucket)}" for bucket in loader.buckets)
    return [
        f"data: {counted(len(dataset), 'sample')} in {config.source}, "
        f"{config.data.held_out:.0%} of them held out",
        *loader.report(),
        f"latents: {config.model.latent_channels} channels, {', '.join(latents)}",
        f"model: {memory.numbers:,} parameters",
        *takes,
        hours_line(memory, world, config.trainer.steps, loader.plan.samples),
        f"run: {config.trainer.steps} steps into {config.output}",
        *(lines_of(*beginning) if beginning else ()),
    ]


def run(config: Config) -> None:
    """Train to the end, from the newest checkpoint if there is one (all ranks of a job call this)."""
    require_trackers(Path(config.output), config.metrics, overwrite=config.overwrite, done=DONE)
    dataset = open_source(config.source, config.data)
    alone = World(0, 1, 0, torch.device("cpu"))
    make_loader(dataset, config.data, config.model, alone, config.seed)  # fails before any rank waits
    find_beginning(starting_point(config, claimed=False), config.model)
    with below("engine"):
        world = ranks.start(config.engine.device, config.engine.timeout_s, folder=Path(config.output))
    output = Path(config.output)

    def claim() -> bool:
        contents, made = raw_contents(output, dataset, config.initial), partial(steps_made, output)
        return claim_run(output, config, done=DONE, contents=contents, made=made, keeping=keep_numbers)

    if ranks.on_first_rank(claim):
        look_over_nodes(world, output)
        begins = partial(starting_point, config, claimed=True)
        train(section(Training, config), output, dataset, world, begins, to_dict(config))
        parts = output, config.model, dataset, config.data, config.score_samples, world.device
        ranks.on_first_rank(lambda: publish(*parts))
        ranks.on_first_rank(partial(require_no_program_errors, output))
    ranks.stop(world)


def train(
    config: Training,
    output: Path,
    dataset: Dataset,
    world: World,
    begins: Callable[[], StartingPoint | None],
    record: dict[str, Any],
) -> None:
    """Train in a folder that is claimed (collective: all ranks).

    begins: finds the weights that the run begins from.  record: the whole config, for checkpoints.
    """
    from core.engine.kinds import make_engine  # a dry run needs none of what it imports

    budget, field = config.data.quarantine_budget, "data.quarantine_budget"
    quarantine = Quarantine(output / QUARANTINE, total=len(dataset), budget=budget, field=field)
    most = config.engine.most_at_once
    loader = make_loader(dataset, config.data, config.model, world, config.seed, most, quarantine)
    parts = (config.model, config.objective, config.ema, config.optimizer, loader, config.data.prefetch)
    engine = settle_zero_stage(config.engine, partial(memory_of, *parts), world, output)
    engine = settle_engine(replace(engine, compile=False), world, output)
    settle_micro_batches(memory_of(*parts, engine), world, output)
    for line in loader.report():
        say(line)
    torch.manual_seed(config.seed)
    model = config.model.build()
    if beginning := ranks.on_first_rank(lambda: find_beginning(begins(), config.model)):
        for line in lines_of(*beginning):
            say(line)
        start, transfer = beginning
        begin_from(start.initial, transfer, model, output)
    Trainer(
        SingleStepper(
            make_engine(model, engine, config.optimizer, world),
            ReconstructionObjective(config.objective, config.model),
            config.ema,
        ),
        TrainingData(
            batches=uploading.steps_ahead(loader.load, world.device, config.data.prefetch),
            largest=loader.largest,
            samples=loader.plan.samples,
        ),
        config.trainer,
        folder=output,
        seed=config.seed,
        metrics=config.metrics,
        fingerprints={"data": dataset.manifest.fingerprint}
        | {name: str(value) for name, value in decoding_identity(dataset, config.data.buckets).items()},
        run_config=record,
    ).fit()


def find_beginning(
    start: StartingPoint | None, model: AutoencoderConfig
) -> tuple[StartingPoint, Transfer] | None:
    """Return what the run begins from, and what becomes of it in its network.

    None for one that continues, or begins at random.
    """
    if start is None:
        return None
    initial = start.initial
    kind = str(initial.network.get("kind", FIRST))
    if kind not in KINDS:
        raise UserError("initial", initial.text, f"an autoencoder of kind {any_of(list(KINDS))}, not {kind}")
    theirs = from_dict(KINDS[kind], {"kind": kind, **initial.network})
    with below("model"):
        return start, plan_transfer(model, theirs, str(initial.run))


def lines_of(start: StartingPoint, transfer: Transfer) -> list[str]:
    """Say what the run begins from."""
    lines = [f"begins from {start.initial.origin}", *transfer.lines(), *start.differing]
    return [f"initial: {line}" for line in lines]


def publish(
    output: Path,
    model: AutoencoderConfig,
    dataset: Dataset,
    data: PixelConfig,
    score_samples: int,
    device: torch.device,
) -> None:
    """Score the averaged weights on held-out samples, and write them down last: that completes the run."""
    from core.checkpoint.weights import load_weights
    from data.media.pictures import write_png

    autoencoder = model.build().eval()
    autoencoder.load_state_dict(load_weights(output, "ema"))
    pairs = reconstruct(autoencoder.to(device), dataset, data, score_samples)
    result: dict[str, Any] = scores(pairs)
    if pairs:
        write_png(output / RECONSTRUCTIONS, show(pairs))
    save(autoencoder, output / AUTOENCODER, result)
    shown = ", ".join(f"{name} {value:.2f}" for name, value in result.items() if name.endswith("_db"))
    say(f"{output / AUTOENCODER}: {shown or 'no held-out samples to score'}")


def open_source(source: str, data: PixelConfig) -> Dataset:
    """Open the raw dataset to learn from."""
    return Dataset(Path(source), check=data.verify != "off")


def make_loader(
    dataset: Dataset,
    data: PixelConfig,
    model: AutoencoderConfig,
    world: World,
    seed: int,
    micro_batch: int = 0,
    quarantine: Quarantine | None = None,
) -> PixelLoader:
    """Return this rank's batches; UserError for a bucket that the autoencoder cannot take."""
    with below("data"):
        loader = PixelLoader(dataset, data, world, seed, micro_batch, quarantine=quarantine)
    for bucket in loader.buckets:
        try:
            model.latent_shape(bucket)
        except UserError as error:
            raise UserError(f"data.buckets: {bucket} does not suit the autoencoder: {error}") from None
    return loader


def _times(model: AutoencoderConfig, bucket: Bucket) -> str:
    return "x".join(map(str, model.latent_shape(bucket)))
