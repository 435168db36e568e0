"""Read weights in the layout of another project, and write them as an export of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from core.checkpoint import exported, torch_file
from core.checkpoint.tensor_file import load_tensors
from core.config.loading import dump, from_dict
from core.config.yaml_files import HEADER
from core.diffusion.objectives.config import ObjectiveConfig
from core.diffusion.paths.config import path_record
from core.errors import UserError
from core.files import atomic_folder, read_text, sealed, write_json, write_text
from core.progress import say
from core.reading import json_files
from core.run.folder import CONFIG, LATENTS
from data.latent.normalising import Normaliser
from models.autoencoder import store
from models.autoencoder.opening import identify_saved
from tools.cards.card import CARD, SAMPLED_BY, card
from tools.cards.config import CardConfig
from tools.cards.facts import Written, facts_of
from tools.convert import pipeline
from tools.convert.layouts.kinds import LAYOUTS
from tools.convert.layouts.layout import Read
from tools.runs.latent_space import copy_autoencoder
from tools.runs.path_record import SCHEDULE
from tools.train.config import Config as TrainConfig


class Unsaid(NamedTuple):
    """Facts that a file of weights does not hold, as the fields of `convert` give them."""

    autoencoder: Path
    latent_std: float
    heads: int
    classes: str


NO_CARD = CardConfig()
SETS = {"ema": ("ema", "state_dict"), "raw": ("model", "state_dict")}
UNASKED = {"ema": {"model": "weights=raw"}, "raw": {"ema": "weights=ema"}}


def read_weights(
    source: Path,
    output: Path,
    layout_name: str,
    weights: str,
    unsaid: Unsaid,
    card_config: CardConfig = NO_CARD,
) -> None:
    """Write the export of a file of weights.  weights: which of several sets, ema or raw."""
    layout = LAYOUTS[layout_name]
    if source.suffix == ".safetensors":
        tensors = load_tensors(source)
    else:
        tensors = torch_file.read_tensors(source, "source", SETS[weights], UNASKED[weights])
    found = layout.read(tensors, unsaid.heads)
    write_export(found, layout.objective, source.name, output, weights, unsaid, card_config=card_config)


def read_pipeline(source: Path, output: Path, unsaid: Unsaid, card_config: CardConfig = NO_CARD) -> None:
    """Write the export of a folder of diffusers' DiTPipeline, whose own autoencoder and classes are taken."""
    found = pipeline.read(source)
    own = unsaid._replace(autoencoder=found.autoencoder) if str(unsaid.autoencoder) == "." else unsaid
    write_export(
        found.found, found.objective, source.name, output, "raw", own, found.classes, card_config=card_config
    )


def write_export(
    found: Read,
    trained_for: Mapping[str, Any],
    name: str,
    output: Path,
    weights: str,
    unsaid: Unsaid,
    classes: list[str] | None = None,
    *,
    card_config: CardConfig = NO_CARD,
) -> None:
    """Write an export, whole or not at all.

    trained_for: fields of the section `objective`.  name: of the source.  classes: names, where it has them.
    """
    learned = {"learned_sigma": found.config.learned_sigma}
    objective = from_dict(ObjectiveConfig, {**trained_for, **learned})
    with atomic_folder(output) as folder:
        if unsaid.classes or classes is None:
            classes = _classes(unsaid.classes, found.config.num_classes)
        _describe(folder, found, objective, unsaid, classes)
        record = {
            "checkpoint": name,
            "weights": weights,
            "average": None if weights == "raw" else weights,
            "dtype": "fp32",
            "step": 0,
            "updates": 0,
            "trained": sorted(found.state),
        }
        numbers = sum(tensor.numel() for tensor in found.state.values())
        facts = facts_of(folder, Written(name, name, weights, numbers), card_config)
        write_text(folder / CARD, card(facts, SAMPLED_BY))
        exported.finish(folder, found.state, record)
    _, _, rows, columns = found.shape
    say(
        f"{output}: {numbers:,} parameters, {found.config.depth} blocks of width {found.config.width}, "
        f"{found.config.num_classes} classes, latents of {rows} x {columns}"
    )


def _describe(
    folder: Path, found: Read, objective: ObjectiveConfig, unsaid: Unsaid, classes: list[str]
) -> None:
    """Write the config, the latent space and the autoencoder of an export."""
    place = store.locate(unsaid.autoencoder)
    identity = identify_saved(place)
    own = identity["normalisation"]
    channels = found.config.input_channels
    if unsaid.latent_std:
        own = {"mean": [0.0] * channels, "std": [unsaid.latent_std] * channels}
    if not own:
        expected = "above 0, since this autoencoder has no normalisation of its own"
        raise UserError("latent_std", unsaid.latent_std, expected)
    normaliser = Normaliser.from_dict(own).as_dict()
    if len(normaliser["mean"]) != channels:
        expected = f"that of latents with {channels} channels; this one has {len(normaliser['mean'])}"
        raise UserError("autoencoder", unsaid.autoencoder, expected)
    path = path_record(objective.path, objective.schedule)
    copy_autoencoder(place, folder)
    space: dict[str, Any] = {
        **normaliser,
        "normalise": "encoder",
        "text": None,
        "text_folder": "",
        "cache": "",
        "encoder": identity["encoder"],
        "classes": classes,
        "shapes": [list(found.shape)],
        "path": path.name,
        SCHEDULE: path.parameters(),
        "prediction": objective.prediction,
        "learned_sigma": objective.learned_sigma,
        "null_share": {"label": objective.label_dropout, "text": None},
        "untrained_classes": [],
    }
    write_json(folder / LATENTS, sealed(json_files.plain(space)))
    trained = TrainConfig(
        source="converted",
        output="converted",
        model=found.config,
        objective=objective,
    )
    write_text(folder / CONFIG, f"{HEADER}{TrainConfig.job}\n{dump(trained)}")


def _classes(file: str, count: int) -> list[str]:
    if not file:
        return [str(number) for number in range(count)]
    names = read_text(Path(file)).splitlines()
    if len(names) != count or len(set(names)) != count or not all(names):
        expected = f"{count} lines, each with another name; it has {len(set(names))} such"
        raise UserError("classes", file, expected)
    return names
