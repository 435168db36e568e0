"""Open the classifier of `sampler.guide.classifier`, and compare it with the run that it guides."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from core.errors import UserError
from core.reading import json_files
from models.classifiers import classifier_folder
from models.classifiers.classifier_folder import SavedClassifier
from models.classifiers.kinds import Network
from tools.runs.loaded_run import LatentSpace
from tools.runs.path_record import SCHEDULE


@dataclass(frozen=True)
class OpenClassifier:
    """A classifier on a device, and what its folder says of it."""

    network: Network
    saved: SavedClassifier


def latents_of(space: LatentSpace) -> dict[str, Any]:
    """Return what a classifier must have been trained on, as its folder records it."""
    found = {
        "path": space.path.name,
        SCHEDULE: space.path.parameters(),
        "encoder": space.encoder,
        **space.normaliser.as_dict(),
    }
    plain: dict[str, Any] = json_files.plain(found)
    return plain


def require_like(folder: str, saved: SavedClassifier, space: LatentSpace) -> None:
    """Raise UserError where a classifier is of other latents, another path or other classes than a run."""
    theirs, ours = {**saved.latents, "classes": list(saved.classes)}, latents_of(space)
    for field, value in {**ours, "classes": list(space.classes)}.items():
        if theirs.get(field) != value:
            expected = f"a classifier for the run, with {field}={value}; this one has {theirs.get(field)}"
            raise UserError("classifier", folder, expected)
    if saved.network.channels != (channels := space.shapes[0][0]):
        expected = f"a classifier of {channels} channels, as the run's latents have; this one takes "
        raise UserError("classifier", folder, f"{expected}{saved.network.channels}")


def look(folder: str, space: LatentSpace) -> None:
    """Refuse a folder that holds no classifier for a run; weights are not read.  "" is none."""
    if folder:
        require_like(folder, classifier_folder.read(Path(folder)), space)


def open_classifier(folder: str, space: LatentSpace, device: torch.device) -> OpenClassifier | None:
    """Open a folder, "" for none; errors as `look` and `models.classifiers.classifier_folder.load`."""
    if not folder:
        return None
    network, saved = classifier_folder.load(Path(folder))
    require_like(folder, saved, space)
    return OpenClassifier(network.to(device), saved)
