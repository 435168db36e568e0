"""Train a denoiser on latents, cached or made as it goes; the same command continues the run."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from core.config.loading import to_dict
from core.diffusion.objective import ObjectiveConfig
from core.distributed import ranks
from core.distributed.ranks import World
from core.engine.config import EngineConfig
from core.errors import below
from core.memory.state import checkpoint_bytes
from core.preflight.check import look_over_nodes
from core.progress import counted, say
from core.run.claim import claim_run
from core.run.folder import FINISHED
from core.train.single import SingleStepper
from core.train.trainer import Trainer
from core.train.validation import SEED
from data.dataset.faults import require_no_program_errors
from data.latent.normalising import Normaliser
from data.loading.sources.kinds import LatentSource, Loader
from data.order.plan_report import bucket_lines
from models.denoisers.network import DenoiserConfig, count_parameters, train_flops
from tools.runs.begun import starting_point
from tools.runs.continuing import latent_contents, require_trackers, steps_made
from tools.runs.foretold import foretold
from tools.runs.latent_space import keep_latent_space
from tools.runs.micro_batches import foreseen, keep_number, settle_micro_batches
from tools.runs.normalisers import LatentsConfig, choose_normaliser, settle_normaliser
from tools.runs.path_record import settle_path
from tools.train import prepared
from tools.train.beginning import find_beginning
from tools.train.config import Config, DataConfig
from tools.train.network import compile_examples, fit_compiled, make_network, micro_batch_shapes
from tools.train.objective import LatentObjective
from tools.train.run_passes import memory_of
from tools.train.source import (
    autoencoder_of,
    make_loader,
    open_held_out,
    open_source,
    require_fit,
    require_known_labels,
    unused_captions,
    unused_text,
)
from tools.train.training_data import make_training_data, validation_batches


class Data(NamedTuple):
    """The data to learn from or to validate on: a source, and this rank's batches of it."""

    source: LatentSource
    loader: Loader


def plan(config: Config) -> list[str]:
    """Describe the shapes, group sizes, parameters, memory, arithmetic and disk space of the run."""
    output, sections = Path(config.output), (config.data, config.model, config.latents)
    require_trackers(output, config.metrics, overwrite=config.overwrite)
    source, _ = open_checked(config.source, config.autoencoder, *sections, run=output)
    depends = (config.model, config.objective, config.latents, config.initial_accept)
    beginning = find_beginning(starting_point(config, claimed=False), source.facts, *depends)
    world, held_out = ranks.planned(config.engine.device, config.processes), config.validation_source
    data = load_data(source, held_out, *sections, config.engine, world, run=output, seed=config.seed)
    require_known_labels(config.model, *(part.source for part in data))
    memory = memory_of(config.engine, config.model, config.data, config.ema, config.optimizer, _by_use(*data))
    takes = foreseen(memory, world, output)
    steps, groups = config.trainer.steps, config.data.groups_per_step
    facts, plan = source.facts, data[0].loader.plan
    sizes, shares = plan.group_sizes, plan.weights
    samples = groups * sum(n * w for n, w in zip(sizes, shares, strict=True))
    flops = groups * sum(
        n * w * train_flops(config.model, shape[1:])
        for n, w, shape in zip(sizes, shares, facts.latent_shapes, strict=True)
    )
    parameters = count_parameters(config.model)
    checkpoint = checkpoint_bytes(memory.groups, len(config.ema.names))
    return [
        f"data: {counted(facts.samples, 'sample')}, {counted(len(facts.classes), 'class', 'classes')} "
        f"in {facts.place}",
        *bucket_lines(plan),
        f"model: {parameters:,} parameters",
        *takes,
        f"step: {counted(round(samples), 'sample')}, {flops:.3e} floating-point operations",
        f"run: {steps} steps, {steps * samples:.3g} samples, {steps * flops:.3e} floating-point operations",
        foretold(memory, world, steps, plan.samples),
        f"checkpoint: {checkpoint / 2**20:.1f} MiB, every {config.trainer.save_every} steps",
        *unused_text(source, config.model),
        *unused_captions(source, config.model, config.data),
        *(beginning.lines if beginning else ()),
    ]


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
    trained, validated = load_data(
        source, config.validation_source, *sections, config.engine, world, run=output, seed=config.seed
    )
    # Where no step depends on the last one's number, a longer run begins as the shorter one did.
    longer = ("trainer.steps",) if config.optimizer.schedule == "constant" else ()

    warnings = [*unused_text(source, config.model), *unused_captions(source, config.model, config.data)]

    rates = config.objective.schedule.betas

    def claim() -> bool:
        require_known_labels(config.model, trained.source, validated.source)
        contents = latent_contents(output, source.facts, config.initial, rates)
        known: Any = {"contents": contents, "made": partial(steps_made, output), "keeping": keep_number}
        return claim_run(output, config, done=FINISHED, may_grow=longer, **known)

    if ranks.on_first_rank(claim):
        look_over_nodes(world, output)
        for warning in warnings:
            say(warning)
        train(config, trained, validated, autoencoder, world)
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
) -> tuple[Data, Data]:
    """Return the data to train on and to validate on: held-out samples if they are given, the same for every
    seed, else those of the run's first steps.

    held_out: the place of held-out samples, "" for none.  run: the run's folder.
    """
    trained = Data(source, make_loader(source, data, engine, model, world, seed=seed))
    if not held_out:
        return trained, trained
    other = open_held_out(held_out, source, data, model, latents, run=run)
    return trained, Data(other, make_loader(other, data, engine, model, world, seed=SEED))


def _by_use(trained: Data, validated: Data) -> dict[str, Data]:
    return {"train": trained} if validated is trained else {"train": trained, "validation": validated}


def train(config: Config, trained: Data, validated: Data, autoencoder: Path, world: World) -> None:
    """Train in a folder that is claimed (collective: all ranks)."""
    from core.engine.engine import (
        Engine,  # imports DeepSpeed, which takes seconds; a dry run needs none of it
    )

    output, seed = Path(config.output), config.seed
    depends = (config.model, config.objective, config.latents, config.initial_accept)
    beginning = ranks.on_first_rank(
        lambda: find_beginning(starting_point(config, claimed=True), trained.source.facts, *depends)
    )
    initial = beginning.normaliser if beginning else None
    objective = prepare_objective(
        trained.source, autoencoder, config.objective, config.latents, config.model, world, output, initial
    )
    memory = memory_of(
        config.engine, config.model, config.data, config.ema, config.optimizer, _by_use(trained, validated)
    )
    settle_micro_batches(memory, world, output)
    for line in bucket_lines(trained.loader.plan):
        say(line)
    shapes = micro_batch_shapes(*trained) + micro_batch_shapes(*validated)
    model = make_network(config.model, config.engine, shapes, world, seed=seed, run=output)
    if beginning:
        beginning.put_into(model, output)
    data_ranks = world.size // config.engine.sequence_parallel
    held_out = validation_batches(validated.loader, config.validation.samples, data_ranks)
    batches, facts = None, trained.source.facts
    if trained.source.gives_latents and world.device.type == "cpu":
        batches = prepared.batches(trained.loader.load, config.data.prefetch, objective, seed)
    trainer = Trainer(
        SingleStepper(
            Engine(model, config.engine, config.optimizer, world),
            prepared.PreparedObjective(objective) if batches else objective,
            config.ema,
        ),
        make_training_data(*trained, config.model, world, validation=held_out, batches=batches),
        config.trainer,
        folder=output,
        seed=seed,
        metrics=config.metrics,
        fingerprints={"data": facts.fingerprint, "encoder": facts.encoder},
        run_config=to_dict(config),
        validation=config.validation,
    )
    if config.engine.compile:
        others = compile_examples(*validated, config.model, world.device) if config.validation.every else []
        fit_compiled(trainer, model, compile_examples(*trained, config.model, world.device), others)
    else:
        trainer.fit()


def prepare_objective(
    source: LatentSource,
    autoencoder: Path,
    objective: ObjectiveConfig,
    latents: LatentsConfig,
    model: DenoiserConfig,
    world: World,
    run: Path,
    initial: Normaliser | None = None,
) -> LatentObjective:
    """Make the loss, once the run folder holds what sampling needs of latents (collective: all ranks).

    run: the run's folder.  initial: the normaliser of the run that this one begins from.
    """
    source.to(world.device)
    latents = settle_normaliser(latents, run, initial)
    normaliser = choose_normaliser(source, latents, run, world, initial)
    space, path = (run, source, autoencoder, objective, normaliser, latents), settle_path(objective, run)
    ranks.on_first_rank(lambda: keep_latent_space(*space, text=model.text_width > 0, path=path))
    known: Any = {"frame_condition": model.frame_condition, "moments": source.moments, "path": path}
    return LatentObjective(objective, normaliser, **known)
