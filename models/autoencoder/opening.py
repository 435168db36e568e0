"""Opening autoencoders: those trained here, of any kind, and public ones in the layout of diffusers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.files import published
from core.reading import json_files
from models.autoencoder import public, store
from models.autoencoder.interface import AnyAutoencoder, settings_of


def open_autoencoder(folder: Path) -> AnyAutoencoder:
    """The autoencoder in `folder`, in float32 and evaluation mode.

    UserError where there is none, WorkError where it is damaged.
    """
    folder = store.locate(folder)
    return public.load(folder) if _is_public(folder) else store.load(folder)


def identify(autoencoder: AnyAutoencoder) -> dict[str, Any]:
    """What a cache records of its encoder, as plain JSON values.

    encoder: hash of weights and configuration.  encoder_config: the latter.  normalisation: the authors' own,
    None for this project's, which are normalised as measured.
    """
    return _identity(autoencoder.identity, autoencoder.settings, autoencoder.normalisation)


def identify_saved(folder: Path) -> dict[str, Any]:
    """What `identify` says of the autoencoder in `folder`; errors as `open_autoencoder`.

    One of this project's is read and hashed once, and no network is made of it.
    """
    folder = store.locate(folder)
    if _is_public(folder):
        return identify(public.load(folder))
    config, fingerprint = store.read_config(folder)
    return _identity(fingerprint, settings_of(config))


def files(folder: Path) -> list[Path]:
    """The files that make up the autoencoder in `folder`."""
    found = [store.WEIGHTS, public.WEIGHTS]
    return [folder / store.CONFIG, *sorted(path for pattern in found for path in published(folder, pattern))]


def _is_public(folder: Path) -> bool:
    return "_class_name" in json_files.read(folder / store.CONFIG, dict[str, Any])


def _identity(
    fingerprint: str, settings: dict[str, Any], normalisation: dict[str, Any] | None = None
) -> dict[str, Any]:
    plain = json_files.plain(settings)
    return {"encoder": fingerprint, "encoder_config": plain, "normalisation": normalisation}
