"""An autoencoder as a folder: weights and configuration, published whole, identified by a fingerprint."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from safetensors.torch import save_file
from torch import Tensor

from core import files
from core.checkpoint.tensor_file import load_tensors
from core.config.loading import from_dict
from core.config.values import any_of
from core.errors import UserError, WorkError
from core.files import open_regular
from core.reading import json_files
from core.reading.instead import instead
from core.reading.json_files import Malformed
from core.run.folder import AUTOENCODER
from models.autoencoder.interface import FIRST, AutoencoderConfig, TrainedHere, fingerprint_of
from models.autoencoder.kinds import KINDS
from models.weights import shapes_only

WEIGHTS, CONFIG, SCORES = "weights.safetensors", "config.json", "scores.json"


def fingerprint(autoencoder: TrainedHere | Path) -> str:
    """Return the SHA-256 of configuration and float32 weights, of a network or a (verified) saved folder."""
    if isinstance(autoencoder, Path):
        return _read(locate(autoencoder)).fingerprint
    return autoencoder.identity


def save(autoencoder: TrainedHere, folder: Path, scores: Mapping[str, Any] | None = None) -> str:
    """Publish the network, and its scores if there are any, as `folder`; return the fingerprint.

    An autoencoder that is already there is replaced; anything else there is a UserError.
    """
    if files.published(folder) and not (folder / CONFIG).exists():
        raise UserError("output", folder, "an empty folder, or one that holds an autoencoder")
    weights, settings, identity = autoencoder.weights(), autoencoder.settings, autoencoder.identity
    with files.atomic_folder(folder) as temporary:
        save_file(weights, temporary / WEIGHTS)
        with open_regular(temporary / WEIGHTS) as file:
            os.fsync(file.fileno())
        if scores is not None:
            files.write_json(temporary / SCORES, dict(scores))
        record = {"kind": autoencoder.kind, "config": settings, "fingerprint": identity}
        files.write_json(temporary / CONFIG, record)
    return identity


def locate(folder: Path) -> Path:
    """Return the folder, `autoencoder/` in a run or `vae/` in a pipeline; UserError where none holds one."""
    for candidate in (folder, folder / AUTOENCODER, folder / "vae"):
        if (candidate / CONFIG).is_file():
            return candidate
    expected = f"a folder with {CONFIG} and weights, or a run that has one{instead(folder)}"
    raise UserError("autoencoder", folder, expected)


def load(folder: Path) -> TrainedHere:
    """Load the network saved in `folder`, in float32 and evaluation mode.

    UserError where something else lies there, WorkError where it is damaged.
    """
    saved = _read(folder := locate(folder))
    with shapes_only():
        autoencoder = saved.config.build()
    try:
        autoencoder.load_state_dict(saved.weights, assign=True)
    except RuntimeError as error:
        raise _unreadable(folder, error) from error
    return autoencoder.eval()


def read_config(folder: Path) -> tuple[AutoencoderConfig, str]:
    """Return configuration and fingerprint of a saved network, its weights hashed; errors as in `load`."""
    saved = _read(locate(folder))
    return saved.config, saved.fingerprint


class _Record(TypedDict):
    """The content of `config.json`."""

    kind: NotRequired[str]
    config: dict[str, Any]
    fingerprint: str


@dataclass(frozen=True)
class _Saved:
    """The content of a folder; the fingerprint is that of the weights that were read."""

    config: AutoencoderConfig
    weights: Mapping[str, Tensor]
    fingerprint: str


def _read(folder: Path) -> _Saved:
    kind, settings, recorded = _record(folder)
    if kind not in KINDS:
        raise UserError("autoencoder", folder, f"an autoencoder of kind {any_of(list(KINDS))}, not {kind}")
    try:
        config, weights = from_dict(KINDS[kind], settings), load_tensors(folder / WEIGHTS)
    except (OSError, UserError, WorkError) as error:
        raise _unreadable(folder, error) from error
    if fingerprint_of(config, weights) != recorded:
        raise WorkError(f"{folder}: {WEIGHTS} is damaged (its fingerprint is not the one in {CONFIG})")
    return _Saved(config, weights, recorded)


def _record(folder: Path) -> tuple[str, dict[str, Any], str]:
    """Read kind, configuration and fingerprint; without a kind the folder is from when there was only one."""
    try:
        found = json_files.read(folder / CONFIG, dict[str, Any])
        if lacking := [name for name in ("config", "fingerprint") if name not in found]:
            expected = f"the folder of an autoencoder; {CONFIG} in this one has no field {lacking[0]!r}"
            raise UserError("autoencoder", folder, expected)
        record = json_files.checked(found, _Record, CONFIG)
    except (OSError, Malformed) as error:
        raise _unreadable(folder, error) from error
    return record.get("kind", FIRST), record["config"], record["fingerprint"]


def _unreadable(folder: Path, error: Exception) -> WorkError:
    return WorkError(f"{folder} holds no readable autoencoder: {str(error).splitlines()[0]}")
