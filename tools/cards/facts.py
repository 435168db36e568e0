"""Gather the facts of a model card from the records of a run, an export or converted weights."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from core.checkpoint.reader import CheckpointReader
from core.config.fields import walk
from core.config.yaml_files import read_recorded
from core.errors import UserError, below
from core.run.folder import CONFIG
from tools.cards.config import CardConfig
from tools.compare import Scored, read
from tools.runs.space_record import read_space
from tools.train.config import Config

RECIPE = ("objective", "data", "latents", "optimizer", "engine", "ema", "trainer", "seed")


@dataclass(frozen=True)
class Written:
    """The weights that a card is about.

    name: of the run or file that they are of.  checkpoint: its name.  weights: which of it.
    """

    name: str
    checkpoint: str
    weights: str
    parameters: int
    dtype: str = "fp32"
    step: int = 0
    updates: int = 0


@dataclass(frozen=True)
class Facts:
    """Everything that a model card states.

    space: `latents.json`.  network: the section `model`.  recipe: what else decided the weights.
    identity: seed and fingerprints of data and encoder; {} of weights that were not trained here.
    samples_seen: in training, 0 where it is not known.
    """

    written: Written
    licence: str
    space: Mapping[str, Any]
    network: Mapping[str, Any]
    recipe: Mapping[str, Any]
    identity: Mapping[str, Any] = field(default_factory=dict)
    samples_seen: int = 0
    versions: Mapping[str, Any] = field(default_factory=dict)
    scores: Sequence[Scored] = ()


def facts_of(folder: Path, written: Written, card: CardConfig, checkpoint: Path | None = None) -> Facts:
    """Read what the card of these weights tells.

    folder: of the run or export.  checkpoint: of a run; None where the weights were not trained here.
    UserError for scores of other weights.
    """
    recorded, state = read_recorded(folder / CONFIG), dict[str, Any]()
    if checkpoint is not None:
        state = CheckpointReader(checkpoint).state()
    return Facts(
        written,
        card.licence,
        read_space(folder),
        recorded.get("model") or {},
        _recipe(recorded, RECIPE if checkpoint is not None else ("objective",)),
        state.get("identity") or {},
        int(state.get("samples_seen") or 0),
        state.get("versions") or {},
        scores_of(written, card.scores),
    )


def scores_of(written: Written, sources: Sequence[str]) -> list[Scored]:
    """Read scores; UserError for those that are of another checkpoint or other weights of it."""
    found = []
    with below("card"):
        for source in sources:
            try:
                read_here = read(source)
            except UserError as error:
                raise UserError("scores", error.value, str(error.expected)) from None
            ours = {"checkpoint": written.checkpoint, "weights": written.weights}
            for scored, (name, value) in itertools.product(read_here, ours.items()):
                if scored.subject.get(name) != value:
                    theirs = scored.subject.get(name, "not recorded")
                    expected = f"scores of {value}, the {name} of this export; theirs: {theirs}"
                    raise UserError("scores", source, expected)
            found += read_here
    return found


def _recipe(recorded: Mapping[str, Any], sections: Sequence[str]) -> dict[str, Any]:
    """Return what of a training run's config decides its weights, without the places of its machine."""
    decisive = {place.path for place in walk(Config, given=recorded) if place.role == "result"}

    def kept(tree: Mapping[str, Any], prefix: str) -> dict[str, Any]:
        found = {}
        for name, value in tree.items():
            if isinstance(value, Mapping):
                if inner := kept(value, f"{prefix}{name}."):
                    found[name] = inner
            elif f"{prefix}{name}" in decisive:
                found[name] = value
        return found

    return kept({name: recorded[name] for name in sections if name in recorded}, "")
