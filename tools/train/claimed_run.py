"""Train a denoiser in a folder that is claimed: network, objective, averages and the loop, put together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from core.averages.ema import EmaConfig
from core.batch import Batch
from core.diffusion.alignment.aligned import Alignment
from core.diffusion.objectives.config import ObjectiveConfig
from core.distributed import ranks
from core.distributed.ranks import World
from core.engine.config import EngineConfig
from core.engine.network import MAIN
from core.metrics.rows import MetricsConfig
from core.optim.groups import OptimizerConfig
from core.progress import say
from core.train.config import TrainerConfig
from core.train.single import SingleStepper
from core.train.trainer import Trainer
from core.train.training_data import TrainingData
from core.train.validation import ValidationConfig
from data.loading import uploading
from data.loading.sources.kinds import LatentSource, Loader
from data.order.plan_report import bucket_lines
from models.denoisers.network import DenoiserConfig, Example
from models.kernels.kinds import mixer
from models.precision import AskedPrecision, Precision, compute_in, settle_precision
from tools.preview.config import PreviewConfig, ScoreConfig
from tools.preview.wanted_looks import wanted_looks
from tools.runs.begun import StartingPoint
from tools.runs.memory.engine_choices import settle_engine
from tools.runs.memory.micro_batches import settle_micro_batches
from tools.runs.memory.zero_stage import settle_zero_stage
from tools.runs.normalisers import LatentsConfig
from tools.train import prepared
from tools.train.alignment import alignment_of
from tools.train.beginning import find_beginning
from tools.train.combinations import stages_of
from tools.train.config import DataConfig, Differing
from tools.train.network import compile_examples, fit_compiled, make_network, micro_batch_shapes
from tools.train.objective import LatentObjective, Unaligned, own_engine, prepare_objective
from tools.train.run_passes import memory_of
from tools.train.teacher import make_teacher
from tools.train.training_data import make_training_data, validation_batches

if TYPE_CHECKING:  # imports DeepSpeed, which takes seconds; a dry run needs none of it
    from core.engine.engine import Engine
    from tools.preview.sampled_look import SampledLook


class Data(NamedTuple):
    """The data to learn from or to validate on: a source, and this rank's batches of it."""

    source: LatentSource
    loader: Loader


class RunData(NamedTuple):
    """What a run reads: samples to train and to validate on, and the folder of their autoencoder."""

    trained: Data
    validated: Data
    autoencoder: Path

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shape (b, C, T, H, W) of every micro-batch that a rank may process."""
        return micro_batch_shapes(*self.trained) + micro_batch_shapes(*self.validated)


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings of `train` by which a run is trained whose folder is claimed, by the same names."""

    seed: int
    source: str
    initial: str
    model: DenoiserConfig
    objective: ObjectiveConfig
    data: DataConfig
    latents: LatentsConfig
    optimizer: OptimizerConfig
    engine: EngineConfig
    ema: EmaConfig
    trainer: TrainerConfig
    metrics: MetricsConfig
    validation: ValidationConfig
    preview: PreviewConfig
    evaluate: ScoreConfig
    initial_accept: tuple[Differing, ...]


def train(
    config: Training,
    output: Path,
    data: RunData,
    world: World,
    begins: Callable[[], StartingPoint | None],
    record: dict[str, Any],
) -> None:
    """Train in a folder that is claimed (collective: all ranks).

    begins: finds the weights that the run begins from.  record: the whole config, for checkpoints.
    """
    from core.engine.kinds import make_engine

    if config.data.encode == "online":
        compute_in(online_precision(config.data.online.precision, config.engine, world))
    source, facts = data.trained.source, data.trained.source.facts
    depends = (config.model, config.objective, config.latents, config.initial_accept)
    beginning = ranks.on_first_rank(lambda: find_beginning(begins(), facts, *depends))
    initial = beginning.normaliser if beginning else None
    wanted, steps = config.objective.alignment, config.trainer.steps
    alignment = alignment_of(config.data, wanted, config.model, facts, steps)
    sections = config.objective, config.latents, config.model
    objective = prepare_objective(source, data.autoencoder, *sections, world, output, initial, alignment)
    engine = _settled(config, data, alignment, world, output)
    for line in bucket_lines(data.trained.loader.plan):
        say(line)
    model = make_network(config.model, engine, data.shapes, world, seed=config.seed, run=output)
    if engine.kernels != "torch":
        objective.mix_by(mixer(torch.bfloat16 if engine.precision == "bf16" else torch.float32))
    if beginning:
        beginning.put_into(model, output)
    if config.objective.kind == "distillation":
        learned = config.model, config.objective, config.latents, engine, world, output
        objective.diffusion.learn_from(make_teacher(config.initial, facts, *learned))
    training = make_engine(model, engine, config.optimizer, world)
    stepper = _stepper(config, training, engine, objective, _is_prepared(source, world), world)
    main = stepper.networks[MAIN], config.model, output
    looks = wanted_looks(config.preview, config.evaluate, *main, config.source)
    trainer = Trainer(
        stepper,
        _training_data(config, data, objective, engine, world),
        config.trainer,
        folder=output,
        seed=config.seed,
        metrics=config.metrics,
        fingerprints={"data": facts.fingerprint, "encoder": facts.encoder},
        run_config=record,
        validation=config.validation,
        looks=looks,
    )
    if engine.compiles:
        fit_compiled(trainer, training, model, *_examples(config, data, looks, world))
    else:
        trainer.fit()


def _settled(
    config: Training, data: RunData, alignment: Alignment | None, world: World, output: Path
) -> EngineConfig:
    """Return the engine without an `auto`, and settle how many samples are taken at once (collective)."""
    of_step = config.model, config.objective, config.data
    used = by_use(data.trained, data.validated)
    memory_with = partial(memory_of, *of_step, config.ema, config.optimizer, used, alignment=alignment)
    engine = settle_zero_stage(
        config.engine, memory_with, world, output, stages_of(config.objective, config.engine)
    )
    engine = settle_engine(engine, world, output, uncompiled=uncompiled(config.objective))
    settle_micro_batches(memory_with(engine), world, output)
    return engine


def _training_data(
    config: Training, data: RunData, objective: LatentObjective, engine: EngineConfig, world: World
) -> TrainingData:
    """Return the trainer's batches, with samples to validate on."""
    data_ranks = world.size // engine.sequence_parallel
    return make_training_data(
        *data.trained,
        config.model,
        world,
        passes=config.objective.passes,
        validation=validation_batches(data.validated.loader, config.validation.samples, data_ranks),
        batches=_ahead(data.trained, objective, config.data.prefetch, config.seed, world),
    )


def _examples(
    config: Training, data: RunData, looks: Sequence[SampledLook], world: World
) -> tuple[list[Example], list[Example]]:
    """Return inputs of every shape that the network is compiled for: in training, and beside it."""
    model, device = config.model, world.device
    others = compile_examples(*data.validated, model, device) if config.validation.every else []
    others += [example for each in looks for example in each.examples()]
    return compile_examples(*data.trained, model, device), others


def _stepper(
    config: Training,
    training: Engine,
    engine: EngineConfig,
    objective: LatentObjective,
    is_prepared: bool,
    world: World,
) -> SingleStepper:
    """Return what takes steps of the network, and of the objective's own parameters (collective)."""
    return SingleStepper(
        training,
        prepared.PreparedObjective(objective) if is_prepared else objective,
        config.ema,
        own_engine(objective, engine, config.optimizer, world, seed=config.seed),
        own_steps=objective.diffusion.own_steps,
        validated=Unaligned(objective) if objective.diffusion.alignment else None,
    )


def _is_prepared(source: LatentSource, world: World) -> bool:
    """Return whether the thread that reads ahead also makes draws and the network's inputs: on a CPU."""
    return source.gives_latents and world.device.type == "cpu"


def _ahead(
    trained: Data, objective: LatentObjective, depth: int, seed: int, world: World
) -> Callable[[int], Iterator[list[Batch]]]:
    """Return what gives batches that are read ahead, and beside a step prepared or sent to its device."""
    if _is_prepared(trained.source, world):
        return prepared.batches(trained.loader.load, depth, objective, seed)
    return uploading.steps_ahead(trained.loader.load, world.device, depth)


def uncompiled(objective: ObjectiveConfig) -> str:
    """Return why the network of this objective cannot be compiled, or ''."""
    is_jvp = objective.kind == "mean_flow" and objective.mean_flow.derivative == "jvp"
    return "objective.mean_flow.derivative=jvp goes through the network as it is written" if is_jvp else ""


def online_precision(asked: AskedPrecision, engine: EngineConfig, world: World) -> Precision:
    """Return in which precision latents are made within steps: in fp32 where training is."""
    return settle_precision(asked, world.device.type, "fp32" if engine.precision == "fp32" else "tf32")


def by_use(trained: Data, validated: Data) -> dict[str, Data]:
    return {"train": trained} if validated is trained else {"train": trained, "validation": validated}
