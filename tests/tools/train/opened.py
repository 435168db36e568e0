"""The parts that `train` builds from a whole config, for tests: each with the sections that it takes."""

from __future__ import annotations

from pathlib import Path

from core.distributed.ranks import World
from data.loading.sources.kinds import LatentSource
from tools.train import job, objective
from tools.train.claimed_run import Data
from tools.train.config import Config
from tools.train.objective import LatentObjective


def open_checked(config: Config) -> tuple[LatentSource, Path]:
    sections = config.data, config.model, config.latents
    return job.open_checked(config.source, config.autoencoder, *sections, run=Path(config.output))


def load_data(config: Config, source: LatentSource, world: World) -> tuple[Data, Data]:
    sections = config.data, config.model, config.latents, config.engine
    place, run = config.validation_source, Path(config.output)
    return job.load_data(source, place, *sections, world, run=run, seed=config.seed)


def prepare_objective(
    config: Config, source: LatentSource, autoencoder: Path, world: World
) -> LatentObjective:
    sections = config.objective, config.latents, config.model
    return objective.prepare_objective(source, autoencoder, *sections, world, run=Path(config.output))
