"""The trainer's input from a source: batches, samples to validate on, and measurements of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from core.batch import Batch
from core.distributed.ranks import World
from core.distributed.sequence import data_world
from core.engine.config import EngineConfig
from core.errors import below
from core.metrics.shape_times import ShapeTimes
from core.progress import say
from core.train.training_data import TrainingData
from core.train.validation import whole_steps
from data.loading.sources.kinds import LatentFacts, LatentSource, Loader
from data.order.plan_report import time_lines
from models.denoisers.network import DenoiserConfig
from tools.train.config import DataConfig
from tools.train.workload import Workload


def make_loader(
    source: LatentSource,
    data: DataConfig,
    engine: EngineConfig,
    model: DenoiserConfig,
    world: World,
    *,
    seed: int,
    feature_steps: int | None = None,
) -> Loader:
    """Make the loader of this rank's batches.

    feature_steps: the number of first steps that take features, where the run does so; None is all.
    """
    with below("engine"):
        world = data_world(world, engine.sequence_parallel)
    text = model.text_width > 0
    with below("data"):
        return source.loader(
            data,
            world,
            seed,
            engine.most_at_once,
            tokens=model.tokens,
            text=text,
            captions=data,
            feature_steps=0 if data.features == "none" else feature_steps,
            stills=data.stills,
        )


def make_training_data(
    source: LatentSource,
    loader: Loader,
    model: DenoiserConfig,
    world: World,
    *,
    passes: int,
    validation: Callable[[], Iterable[Batch]],
    batches: Callable[[int], Iterator[list[Batch]]],
) -> TrainingData:
    """Make the trainer's data.

    passes: of the network in a step of the objective (`ObjectiveConfig.passes`).  batches: those of the
    loader, read ahead.
    """
    return TrainingData(
        batches=batches,
        largest=loader.largest,
        validation=validation,
        work_of=Workload(model, source.latent_grid, passes).of,
        shape_times=measure_groups(source.facts, loader, world),
        samples=loader.plan.samples,
    )


def validation_batches(loader: Loader, samples: int, ranks: int) -> Callable[[], Iterable[Batch]]:
    """Return this rank's part of the validation samples, the same at every call: those of the first steps.

    samples: at least so many.  ranks: that have samples of their own.
    """
    return lambda: whole_steps(loader.load, samples, ranks)


def measure_groups(facts: LatentFacts, loader: Loader, world: World) -> ShapeTimes:
    """Return what measures groups over the first steps, and says how their times spread."""
    shapes = facts.batch_shapes

    def report(seconds: Mapping[tuple[int, ...], float]) -> None:
        for line in time_lines(loader.plan, [seconds.get(shape) for shape in shapes]):
            say(line)

    used = {shape for shape, weight in zip(shapes, loader.plan.weights, strict=True) if weight}
    return ShapeTimes(used, world.device, report)
