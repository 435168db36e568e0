"""Autoencoders for images and clips: this project's causal one, and public ones."""

from models.autoencoder.network import Autoencoder, AutoencoderConfig
from models.autoencoder.opening import AnyAutoencoder, identify, identify_saved, open_autoencoder
from models.autoencoder.store import fingerprint, load, save

__all__ = [
    "AnyAutoencoder",
    "Autoencoder",
    "AutoencoderConfig",
    "fingerprint",
    "identify",
    "identify_saved",
    "load",
    "open_autoencoder",
    "save",
]
