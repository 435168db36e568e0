"""Read and write folders of diffusers' DiTPipeline: transformer, autoencoder, scheduler, names of classes."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from core.checkpoint import exported
from core.checkpoint.reader import CheckpointReader
from core.checkpoint.sharded_file import LARGEST, load_sharded, write_sharded
from core.checkpoint.tensor_file import entries_of
from core.checkpoint.weights import choose, load_weights, require_held
from core.diffusion.paths.config import PathRecord
from core.errors import UserError
from core.files import atomic_folder, write_json, write_text
from core.progress import say
from core.reading import json_files
from models.autoencoder import store
from models.autoencoder.opening import files
from models.denoisers.dit import DiTConfig
from tools.cards.card import CARD, card
from tools.cards.config import CardConfig
from tools.cards.facts import Written, facts_of
from tools.convert.config import INDEX
from tools.convert.layouts import diffusers_dit
from tools.convert.layouts.layout import Read
from tools.runs.loaded_run import recorded_network
from tools.runs.path_record import SCHEDULE
from tools.runs.space_record import read_space

TRANSFORMER, SCHEDULER, VAE = "transformer", "scheduler", "vae"
STEM = "diffusion_pytorch_model"  # of the files of weights
CONFIG = "config.json"
EPS = 1e-6  # of every normalisation here
STEPS = 1000  # of a chain
NO_CARD = CardConfig()
OPENED_BY = "DiTPipeline.from_pretrained(FOLDER)  # of diffusers"


class Pipeline(NamedTuple):
    """A pipeline that was read.  objective: what it was trained for, as the section `objective`."""

    found: Read
    objective: dict[str, Any]
    autoencoder: Path
    classes: list[str]


class Unfit(UserError):
    """A network, or what it was trained for, that a DiTPipeline cannot hold."""


@contextlib.contextmanager
def _naming_misfits() -> Iterator[None]:
    """Turn refusals of the block into Unfit."""
    try:
        yield
    except UserError as error:
        raise Unfit(error.field, error.value, error.expected) from None


def read(folder: Path) -> Pipeline:
    """Read a pipeline; UserError for another than DiTPipeline, or a schedule without a form here."""
    index = json_files.read(folder / INDEX, dict[str, Any])
    if index.get("_class_name") != "DiTPipeline":
        raise UserError("source", f"{folder} of {index.get('_class_name')}", "a DiTPipeline")
    config = json_files.read(folder / TRANSFORMER / CONFIG, dict[str, Any])
    network = diffusers_dit.network_of(config)
    if (eps := config.get("norm_eps", 1e-5)) != EPS:
        say(f"{folder}: norm_eps={eps} there is {EPS} here, so outputs differ in the last digits")
    tensors = load_sharded(folder / TRANSFORMER, STEM)
    found = diffusers_dit.read(tensors, network, config["sample_size"])
    objective = _objective(json_files.read(folder / SCHEDULER / "scheduler_config.json", dict[str, Any]))
    labels = index.get("id2label") or {}
    classes = [str(labels.get(str(n), n)) for n in range(network.num_classes)]
    if len(set(classes)) != len(classes):
        classes = [f"{n} {name}" for n, name in enumerate(classes)]
    return Pipeline(found, objective, folder / VAE, classes)


def write(
    source: Path,
    output: Path,
    weights: str,
    checkpoint: str,
    card_config: CardConfig = NO_CARD,
    largest: int = LARGEST,
) -> None:
    """Write the pipeline of a run or an export, whole or not at all; Unfit where it has no such form.

    largest: bytes of weights in a file, above which there are several with an index.
    """
    network, space = recorded_network(source), read_space(source)
    chosen = choose(source, checkpoint)
    require_held(chosen, weights)
    vae = store.locate(source)
    vae_config = json_files.read(vae / CONFIG, dict[str, Any])
    with _naming_misfits():
        if not isinstance(network, DiTConfig):
            raise UserError("source", source, "a network of kind dit in layout diffusers")
        scheduler, scaling = _scheduler(space), _scaling(space)
        if vae_config.get("_class_name") != "AutoencoderKL":
            kind = vae_config.get("_class_name", "this project's own")
            expected = "those of diffusers' AutoencoderKL in this layout"
            raise UserError("source", f"latents of {kind}", expected)
        diffusers_dit.require_form(network, tuple(space["shapes"][0]))
    state = load_weights(chosen, weights)
    with _naming_misfits():
        tensors, config = diffusers_dit.write(state, network, tuple(space["shapes"][0]))
    text = _card(source, chosen, weights, state, card_config)
    with atomic_folder(output) as folder:
        for part in (TRANSFORMER, SCHEDULER, VAE):
            (folder / part).mkdir()
        write_sharded(folder / TRANSFORMER, STEM, entries_of(tensors), largest)
        write_text(folder / CARD, text)
        write_json(folder / TRANSFORMER / CONFIG, config)
        write_json(folder / SCHEDULER / "scheduler_config.json", scheduler)
        for path in files(vae):
            shutil.copyfile(path, folder / VAE / path.name)
        write_json(folder / VAE / CONFIG, {**vae_config, **scaling})
        write_json(folder / INDEX, _index(space["classes"]))
    say(f"{output}: {len(tensors)} tensors of {chosen.name}, to be opened by DiTPipeline.from_pretrained")


def _card(
    source: Path, chosen: Path, weights: str, state: Mapping[str, Tensor], card_config: CardConfig
) -> str:
    """Return the card of a pipeline.  chosen: the checkpoint or export that the state is of."""
    record, checkpoint = (exported.read_record(chosen), None) if exported.is_export(chosen) else ({}, chosen)
    counters = record or CheckpointReader(chosen).state()
    numbers = sum(tensor.numel() for tensor in state.values())
    name = record.get("checkpoint", chosen.name)
    written = Written(
        source.resolve().name,
        name,
        record.get("weights", weights),
        numbers,
        step=counters["step"],
        updates=counters["updates"],
    )
    return card(facts_of(source, written, card_config, checkpoint), OPENED_BY)


def _index(classes: list[str]) -> dict[str, Any]:
    return {
        "_class_name": "DiTPipeline",
        "id2label": {str(number): name for number, name in enumerate(classes)},
        TRANSFORMER: ["diffusers", "DiTTransformer2DModel"],
        SCHEDULER: ["diffusers", "DDIMScheduler"],
        VAE: ["diffusers", "AutoencoderKL"],
    }


def _objective(scheduler: Mapping[str, Any]) -> dict[str, Any]:
    schedules = {theirs: ours for ours, theirs in diffusers_dit.SCHEDULES.items()}
    predictions = {theirs: ours for ours, theirs in diffusers_dit.PREDICTIONS.items()}
    schedule, predicted = scheduler.get("beta_schedule"), scheduler.get("prediction_type", "epsilon")
    steps, rates = scheduler.get("num_train_timesteps", STEPS), scheduler.get("trained_betas")
    if schedule not in schedules or predicted not in predictions or steps != STEPS or rates is not None:
        has = f"a scheduler of {steps} steps, beta_schedule={schedule}, prediction_type={predicted}"
        raise UserError("source", has, f"{STEPS} steps, {' or '.join(schedules)}, {' or '.join(predictions)}")
    own = {
        "beta_first": scheduler.get("beta_start", 0.0001),
        "beta_last": scheduler.get("beta_end", 0.02),
        "zero_terminal_snr": scheduler.get("rescale_betas_zero_snr", False),
    }
    return {
        "path": schedules[schedule],
        "schedule": own,
        "prediction": predictions[predicted],
        "label_dropout": 0.1,
    }


def _scheduler(space: Mapping[str, Any]) -> dict[str, Any]:
    if space["path"] not in diffusers_dit.SCHEDULES or space["prediction"] not in diffusers_dit.PREDICTIONS:
        expected = f"path {' or '.join(diffusers_dit.SCHEDULES)}, {' or '.join(diffusers_dit.PREDICTIONS)}"
        raise UserError("source", f"a run of {space['path']}, {space['prediction']}", expected)
    path = PathRecord.of(space["path"], space.get(SCHEDULE))
    if path.steps != STEPS:
        raise UserError("source", f"a run of {path.steps} steps", f"one of {STEPS} in this layout")
    return {
        "_class_name": "DDIMScheduler",
        "num_train_timesteps": path.steps,
        "beta_start": path.beta_first,
        "beta_end": path.beta_last,
        "rescale_betas_zero_snr": path.zero_terminal_snr,
        "beta_schedule": diffusers_dit.SCHEDULES[space["path"]],
        "prediction_type": diffusers_dit.PREDICTIONS[space["prediction"]],
        "clip_sample": False,
        "set_alpha_to_one": True,
    }


def _scaling(space: Mapping[str, Any]) -> dict[str, Any]:
    """Return how the pipeline brings latents back: by one factor."""
    means, stds = set(map(float, space["mean"])), set(map(float, space["std"]))
    if means != {0.0} or len(stds) != 1:
        raise UserError(
            "source",
            "latents normalised for each channel",
            "a run with latents.normalise=encoder, since the pipeline knows one factor for all",
        )
    return {"scaling_factor": 1 / stds.pop()}
