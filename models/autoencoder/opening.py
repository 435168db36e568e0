"""Opening autoencoders of either kind: this project's, and public ones in the layout of diffusers."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from core.errors import WorkError
from models.autoencoder import public, store
from models.autoencoder.network import Autoencoder
from models.autoencoder.public import PublicAutoencoder

AnyAutoencoder = Autoencoder | PublicAutoencoder


def open_autoencoder(folder: Path) -> AnyAutoencoder:
    """The autoencoder in `folder`, of whichever kind, in float32 and evaluation mode.

    UserError where there is none, WorkError where it is damaged.
    """
    folder = store.locate(folder)
    try:
        record = json.loads((folder / store.CONFIG).read_text(encoding="utf-8"))
    except ValueError as error:
        raise WorkError(f"{folder / store.CONFIG} is damaged: {error}") from None
    return public.load(folder) if "_class_name" in record else store.load(folder)


def identify(autoencoder: AnyAutoencoder) -> dict[str, Any]:
    """What a cache records of its encoder, as plain JSON values.

    encoder: hash of weights and configuration.  encoder_config: the latter.  normalisation: the authors' own
    (`PublicAutoencoder`), None of this project's, which are normalised as measured.
    """
    if isinstance(autoencoder, PublicAutoencoder):
        settings, identity = autoencoder.settings, autoencoder.identity
        normalisation = autoencoder.normalisation
    else:
        settings, identity = asdict(autoencoder.config), store.fingerprint(autoencoder)
        normalisation = None
    return {
        "encoder": identity,
        "encoder_config": json.loads(json.dumps(settings)),  # tuples become lists
        "normalisation": normalisation,
    }


def files(folder: Path) -> list[Path]:
    """The files that make up the autoencoder in `folder`."""
    found = [store.WEIGHTS, public.WEIGHTS]
    return [folder / store.CONFIG, *sorted(path for pattern in found for path in folder.glob(pattern))]
