"""Train a denoiser on latents, cached or encoded while training; the same command continues the run."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from core.config.loading import to_dict
from core.config.sections import section
from core.distributed import ranks
from core.distributed.ranks import World
from core.engine.config import EngineConfig
from core.errors import below
from core.memory.state import checkpoint_bytes
from core.preflight.check import look_over_nodes
from core.progress import counted, say
from core.run.claim import claim_run
from core.run.folder import FINISHED
from core.train.validation import SEED
from data.dataset.faults import require_no_program_errors
from data.loading.sources.kinds import LatentFacts, LatentSource
from data.order.plan_report import bucket_lines
from data.order.steps import StepPlan
from models.denoisers.network import DenoiserConfig, count_parameters, train_flops
from tools.runs.begun import starting_point
from tools.runs.continuing import latent_contents, require_trackers, steps_made
from tools.runs.memory.micro_batches import foreseen, keep_numbers
from tools.runs.memory.zero_stage import foreseen_zero_stage
from tools.runs.normalisers import LatentsConfig
from tools.runs.path_record import require_files
from tools.runs.run_hours import hours_line
from tools.train.alignment import alignment_of, describe, feature_steps
from tools.train.beginning import find_beginning
from tools.train.claimed_run import Data, RunData, Training, by_use, train
from tools.train.combinations import stages_of
from tools.train.config import Config, DataConfig
from tools.train.run_passes import memory_of
from tools.train.source import (
    autoencoder_of,
    open_held_out,
    open_source,
    require_features,
    require_fit,
    require_known_labels,
    require_stills,
    unused_captions,
    unused_text,
)
from tools.train.training_data import make_loader


def plan(config: Config) -> list[str]:
    """Describe the shapes, group sizes, parameters, memory, arithmetic and disk space of the run."""
    output, sections = Path(config.output), (config.data, config.model, config.latents)
    require_trackers(output, config.metrics, overwrite=config.overwrite)
    warnings = require_files(config.objective, None if config.overwrite else output)
    source, _ = open_checked(config.source, config.autoencoder, *sections, run=output)
    depends = (config.model, config.objective, config.latents, config.initial_accept)
    beginning = find_beginning(starting_point(config, claimed=False), source.facts, *depends)
    world, held_out = ranks.planned(config.engine.device, config.processes), config.validation_source
    aligned = alignment_of(
        config.data, config.objective.alignment, config.model, source.facts, config.trainer.steps
    )
    more: Any = {"run": output, "seed": config.seed}
    more["feature_steps"] = feature_steps(config.objective, config.trainer.steps)
    data = load_data(source, held_out, *sections, config.engine, world, **more)
    require_known_labels(config.model, *(part.source for part in data))
    parts = (config.model, config.objective, config.data, config.ema, config.optimizer, by_use(*data))
    memory_with = partial(memory_of, *parts, alignment=aligned)
    engine, stage = foreseen_zero_stage(
        config.engine, memory_with, world, output, stages_of(config.objective, config.engine)
    )
    memory = memory_with(engine)
    takes = [*stage, *foreseen(memory, world, output)]
    facts, plan, steps = source.facts, data[0].loader.plan, config.trainer.steps
    parameters = count_parameters(config.model)
    checkpoint = checkpoint_bytes(memory.groups, len(config.ema.names)) + checkpoint_bytes(memory.own, 0)
    return [
        f"data: {counted(facts.samples, 'sample')}, {counted(len(facts.classes), 'class', 'classes')} "
        f"in {facts.place}",
        *bucket_lines(plan),
        f"model: {parameters:,} parameters",
        *([describe(aligned, source.facts)] if aligned else []),
        *takes,
        *_arithmetic(plan, facts, config.model, config.objective.passes, steps),
        hours_line(memory, world, steps, plan.samples),
        f"checkpoint: {checkpoint / 2**20:.1f} MiB, every {config.trainer.save_every} steps",
        *warnings,
        *unused_text(source, config.model),
        *unused_captions(source, config.model, config.data),
        *(beginning.lines if beginning else ()),
    ]


def _arithmetic(
    plan: StepPlan, facts: LatentFacts, model: DenoiserConfig, passes: int, steps: int
) -> list[str]:
    """Return lines on the samples and FLOPs of a step, on average, and of the run."""
    groups = plan.config.groups_per_step
    sizes = list(zip(plan.group_sizes, plan.weights, facts.latent_shapes, strict=True))
    samples = groups * sum(n * w for n, w, _ in sizes)
    flops = groups * sum(n * w * train_flops(model, shape[1:], passes=passes) for n, w, shape in sizes)
    return [
        f"step: {counted(round(samples), 'sample')}, {flops:.3e} floating-point operations",
        f"run: {steps} steps, {steps * samples:.3g} samples, {steps * flops:.3e} floating-point operations",
    ]


def may_grow(config: Config) -> tuple[str, ...]:
    """Return the fields that may be larger where a run is continued: steps, if none depends on the last one's
    number, since a longer run then begins as the shorter one did."""
    depends = config.optimizer.schedule != "constant" or config.objective.alignment.depends_on_steps
    return () if depends else ("trainer.steps",)


def run(config: Config) -> None:
    """Train to the end, from the newest checkpoint if there is one (all ranks of a job call this)."""
    output, sections = Path(config.output), (config.data, config.model, config.latents)
    require_trackers(output, config.metrics, overwrite=config.overwrite)
    source, autoencoder = open_checked(config.source, config.autoencoder, *sections, run=output)
    depends = (config.model, config.objective, config.latents, config.initial_accept)
    # What is wrong with it fails before any rank waits.
    find_beginning(starting_point(config, claimed=False), source.facts, *depends)
    with below("engine"):
        world = ranks.start(config.engine.device, config.engine.timeout_s, folder=output)
    more: Any = {"run": output, "seed": config.seed}
    more["feature_steps"] = feature_steps(config.objective, config.trainer.steps)
    trained, validated = load_data(source, config.validation_source, *sections, config.engine, world, **more)
    warnings = require_files(config.objective, None if config.overwrite else output)
    warnings += [*unused_text(source, config.model), *unused_captions(source, config.model, config.data)]

    files = config.objective.schedule.betas, config.objective.timesteps.density

    def claim() -> bool:
        require_known_labels(config.model, trained.source, validated.source)
        contents = latent_contents(output, source.facts, config.initial, *files)
        known: Any = {"contents": contents, "made": partial(steps_made, output), "keeping": keep_numbers}
        return claim_run(output, config, done=FINISHED, may_grow=may_grow(config), **known)

    if ranks.on_first_rank(claim):
        look_over_nodes(world, output)
        for warning in warnings:
            say(warning)
        begins = partial(starting_point, config, claimed=True)
        data = RunData(trained, validated, autoencoder)
        train(section(Training, config), output, data, world, begins, to_dict(config))
        more = "output=... prompts=..." if config.model.text_width else "output=..."
        ranks.on_first_rank(partial(require_no_program_errors, output))
        steps = counted(config.trainer.steps, "step")
        say(f"{output}: trained {steps}; next: longtake sample {output} {more}")
    ranks.stop(world)


def open_checked(
    place: str,
    autoencoder: str,
    data: DataConfig,
    model: DenoiserConfig,
    latents: LatentsConfig,
    *,
    run: Path,
) -> tuple[LatentSource, Path]:
    """Open the source and find its autoencoder's folder.

    UserError unless source and network fit each other.

    run: the run's folder.
    """
    source = open_source(place, autoencoder, data, run=run, text=model.text_width > 0)
    require_fit(source, model, latents)
    require_features(source, data)
    require_stills(source, data)
    return source, autoencoder_of(source, autoencoder, data)


def load_data(
    source: LatentSource,
    held_out: str,
    data: DataConfig,
    model: DenoiserConfig,
    latents: LatentsConfig,
    engine: EngineConfig,
    world: World,
    *,
    run: Path,
    seed: int,
    feature_steps: int | None = None,
) -> tuple[Data, Data]:
    """Return the data to train on and to validate on: held-out samples if they are given, the same for every
    seed, else those of the run's first steps.

    held_out: the place of held-out samples, "" for none.  run: the run's folder.  feature_steps: the number
    of first steps that take features, where the run does so; None is all.
    """
    trained = Data(
        source, make_loader(source, data, engine, model, world, seed=seed, feature_steps=feature_steps)
    )
    if not held_out:
        return trained, trained
    other = open_held_out(held_out, source, data, model, latents, run=run)
    return trained, Data(other, make_loader(other, data, engine, model, world, seed=SEED, feature_steps=0))
