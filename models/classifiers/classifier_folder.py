"""A classifier of noisy latents as a folder: `weights.safetensors`, and `classifier.json`, written last.

The record says which network it is, the names of its classes, and of which latents on which path, and has the
fingerprint of the weights and a SHA-256 of itself. Nothing in it is run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypedDict

import torch

from core import files
from core.checkpoint.tensor_file import load_tensors, write_tensors
from core.config.loading import from_dict, to_dict
from core.config.values import any_of
from core.errors import UserError, WorkError, below
from core.reading import json_files
from models.classifiers.kinds import KINDS, ClassifierConfig, Network
from models.weights import fingerprint, shapes_only

RECORD, WEIGHTS = "classifier.json", "weights.safetensors"


class _Record(TypedDict):
    """The content of `classifier.json`."""

    format: Literal[1]
    network: dict[str, Any]
    classes: list[str]
    latents: dict[str, Any]
    weights_sha256: str


@dataclass(frozen=True)
class SavedClassifier:
    """A classifier as recorded in its folder.

    classes: their names, by number.  latents: those that it was trained on, and their path, by the names of
    `latents.json`.  weights_sha256: their fingerprint.
    """

    network: ClassifierConfig
    classes: tuple[str, ...]
    latents: Mapping[str, Any]
    weights_sha256: str

    @property
    def record(self) -> dict[str, Any]:
        """The values by which samples record the classifier that guided them."""
        return {"network": to_dict(self.network), "weights_sha256": self.weights_sha256}


def save(
    folder: Path,
    network: Network,
    config: ClassifierConfig,
    classes: Sequence[str],
    latents: Mapping[str, Any],
) -> SavedClassifier:
    """Write a classifier; UserError where something else lies in the folder.  latents: plain JSON values."""
    if files.published(folder) and not (folder / RECORD).exists():
        raise UserError("output", folder, "an empty folder, or one that holds a classifier of noisy latents")
    if len(classes) != config.classes:
        raise UserError("classes", len(classes), f"{config.classes} names, one for each class of the network")
    state = {
        name: tensor.detach().float().cpu().contiguous() for name, tensor in network.state_dict().items()
    }
    saved = SavedClassifier(config, tuple(classes), json_files.plain(dict(latents)), fingerprint(state))
    record = {
        "format": 1,
        "network": to_dict(config),
        "classes": list(classes),
        "latents": saved.latents,
        "weights_sha256": saved.weights_sha256,
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_tensors(folder / WEIGHTS, state)
    files.write_json(folder / RECORD, files.sealed(json_files.plain(record)))
    return saved


def read(folder: Path) -> SavedClassifier:
    """Read what a folder says of itself; UserError where it holds no classifier, WorkError for damage."""
    path = folder / RECORD
    if not path.is_file():
        raise UserError("classifier", folder, f"the folder of a classifier of noisy latents, with {RECORD}")
    record = json_files.read_sealed(path, _Record)
    kind = record["network"].get("kind")
    if kind not in KINDS:
        raise UserError("classifier", folder, f"one of kind {any_of(list(KINDS))}, not {kind}")
    with below(f"{path}: network"):
        network = from_dict(KINDS[kind], record["network"])
    if len(record["classes"]) != network.classes:
        raise WorkError(f"{path}: {len(record['classes'])} names, for {network.classes} classes")
    return SavedClassifier(network, tuple(record["classes"]), record["latents"], record["weights_sha256"])


def load(folder: Path) -> tuple[Network, SavedClassifier]:
    """Load a classifier, in float32 and evaluation mode, without gradients of its own; errors as `read`.

    WorkError for weights that are not those of the record, or not finite.
    """
    saved, path = read(folder), folder / WEIGHTS
    state = load_tensors(path)
    if fingerprint(state) != saved.weights_sha256:
        raise WorkError(f"{path} is damaged: it differs from its fingerprint in {RECORD}")
    if not all(bool(torch.isfinite(tensor).all()) for tensor in state.values()):
        raise WorkError(f"{path} has weights that are not finite")
    with shapes_only():
        network = saved.network.build()
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise WorkError(f"{path} does not fit {RECORD}: {' '.join(str(error).split())}") from None
    return network.eval().requires_grad_(False), saved
