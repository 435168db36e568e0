"""Begin a new run of `train` from another's weights: what must agree, and what is said of the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from core.config.loading import from_dict
from core.diffusion.objectives.config import ObjectiveConfig
from core.diffusion.paths.config import PathRecord, path_record
from core.diffusion.paths.kinds import make_path
from core.errors import UserError, below
from core.progress import say
from data.latent.normalising import Normaliser
from data.loading.sources.kinds import LatentFacts
from models.denoisers.kinds import config_class
from models.denoisers.network import Denoiser, DenoiserConfig
from models.places import has_learned_places
from models.transfer import Transfer, class_rows, plan_transfer
from tools.runs.begun import StartingPoint, begin_from
from tools.runs.initial import Initial
from tools.runs.loaded_run import LatentSpace
from tools.runs.normalisers import LatentsConfig, require_frames


@dataclass(frozen=True)
class Beginning:
    """Weights that a run begins from, and what they become in its network.

    normaliser: that of the other run, None where its autoencoder is another one.
    accepted: in what the two runs differ although weights depend on it.
    """

    initial: Initial
    transfer: Transfer
    normaliser: Normaliser | None
    accepted: dict[str, str]
    lines: list[str]

    def put_into(self, model: Denoiser, output: Path) -> None:
        """Report, read and record the weights, and load them into the network (collective: all ranks)."""
        for line in self.lines:
            say(line)
        begin_from(self.initial, self.transfer, model, output, self.accepted)


def find_beginning(
    start: StartingPoint | None,
    facts: LatentFacts,
    model: DenoiserConfig,
    objective: ObjectiveConfig,
    latents: LatentsConfig,
    accept: Sequence[str],
) -> Beginning | None:
    """Return what the run begins from, only its records read yet; None for a run that continues.

    accept: in what the two runs may differ although weights depend on it.
    UserError where these weights cannot become those of the run's network.
    """
    if start is None:
        return None
    initial = start.initial
    space, theirs = LatentSpace.read(initial.run), _network(initial)
    accepted = _accepted(initial, space, facts, model, objective, accept)
    rows = class_rows(facts.classes, space.classes, model.num_classes, theirs.num_classes)
    with below("model"):
        transfer = plan_transfer(model, theirs, str(initial.run), rows)
    normaliser = space.normaliser if space.encoder == facts.encoder else None
    if normaliser is not None and latents.normalise == "initial":
        require_frames(normaliser, facts, "initial", f"the normaliser of {initial.run}")
    lines = [f"begins from {initial.origin}", *transfer.lines()]
    lines += _spaces(latents, model, facts, space, normaliser)
    lines += [f"{name} is another one, as initial_accept allows: {how}" for name, how in accepted.items()]
    lines += start.differing
    said = [f"initial: {line}" for line in lines]
    return Beginning(initial, transfer, normaliser, accepted, said)


def _network(initial: Initial) -> DenoiserConfig:
    try:
        return from_dict(config_class(initial.network), initial.network)
    except UserError as error:
        expected = f"a run of a network that this version knows; there, {error}"
        raise UserError("initial", initial.text, expected) from None


def _accepted(
    initial: Initial,
    space: LatentSpace,
    facts: LatentFacts,
    model: DenoiserConfig,
    objective: ObjectiveConfig,
    accept: Sequence[str],
) -> dict[str, str]:
    """Return the differences between the runs that weights depend on; UserError unless `accept` names all."""
    path = path_record(objective.path, objective.schedule)
    ours: dict[str, Any] = {
        "autoencoder": facts.encoder,
        "path": path.shown,
        "prediction": objective.prediction,
        "time_input": _time_input(path),
        "text_encoder": facts.text_encoder if model.text_width else None,
    }
    theirs: dict[str, Any] = {
        "autoencoder": space.encoder,
        "path": space.path.shown,
        "prediction": space.prediction,
        "time_input": _time_input(space.path),
        "text_encoder": space.text if model.text_width and space.text else ours["text_encoder"],
    }
    differing = {name: _compared(theirs[name], ours[name]) for name in ours if ours[name] != theirs[name]}
    if missing := [name for name in differing if name not in accept]:
        named = [*accept, *missing]
        how = "; ".join(f"{name}: {differing[name]}" for name in missing)
        if objective.kind == "distillation":  # for which nothing is accepted
            expected = f"a run that this one can distil; they differ in {how}"
            raise UserError("initial", initial.text, expected)
        expected = f"[{', '.join(named)}], since {initial.run} differs from this run in {how}"
        raise UserError("initial_accept", f"[{', '.join(accept)}]", expected)
    return differing


def _time_input(path: PathRecord) -> str:
    """Describe the network's time input by its values at the two ends."""
    first, last = make_path(path).time_input(torch.tensor([0.0, 1.0])).tolist()
    return f"{first:g} to {last:g}"


def _compared(there: Any, here: Any) -> str:
    if isinstance(there, dict) and isinstance(here, dict):
        name = next(name for name in {**there, **here} if there.get(name) != here.get(name))
        return f"{name}={_short(there.get(name))} there and {_short(here.get(name))} here"
    return f"{_short(there)} there and {_short(here)} here"


def _short(value: Any) -> str:
    text = str(value)
    return text[:12] if len(text) == 64 else text  # a hash


def _spaces(
    latents: LatentsConfig,
    model: DenoiserConfig,
    facts: LatentFacts,
    space: LatentSpace,
    normaliser: Normaliser | None,
) -> list[str]:
    """Say how latents are normalised, and of which shapes they are."""
    found = []
    if latents.normalise == "initial":
        measured = "as measured here, since the autoencoder is another one"
        found.append(f"latents are normalised {'as there' if normaliser is not None else measured}")
    elif normaliser is not None:
        found.append(f"latents are normalised by latents.normalise={latents.normalise}, not as there")
    ours, theirs = set(facts.latent_shapes), set(space.shapes)
    if ours != theirs:
        shapes = [_shapes(sorted(some)) for some in (theirs, ours)]
        found.append(f"latents of {shapes[0]} there, of {shapes[1]} here")
        if not has_learned_places(model.build):
            found.append("there is no learned table of places: new ones are computed as the old ones were")
    return found


def _shapes(shapes: list[tuple[int, int, int, int]]) -> str:
    more = f" and {len(shapes) - 4} more" if len(shapes) > 4 else ""
    return ", ".join("x".join(map(str, shape)) for shape in shapes[:4]) + more
