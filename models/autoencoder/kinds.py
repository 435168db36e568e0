"""The kinds of autoencoders that `train-autoencoder` can train, by the name that `model.kind` gives them.

A kind is one file with a network (`models.autoencoder.interface.TrainedHere`) and its configuration, a frozen
dataclass that has what `AutoencoderConfig` lists, and one line here. Public autoencoders are not built from a
configuration; `models.autoencoder.opening` recognises them by the content of their folder.
"""

from __future__ import annotations

from models.autoencoder.interface import AutoencoderConfig
from models.autoencoder.kl import KLConfig

KINDS: dict[str, type[AutoencoderConfig]] = {
    "kl": KLConfig,
}
DEFAULT: AutoencoderConfig = KLConfig()
