"""The causal autoencoder for images and clips."""

from models.autoencoder.network import Autoencoder, AutoencoderConfig
from models.autoencoder.store import fingerprint, load, save

__all__ = ["Autoencoder", "AutoencoderConfig", "fingerprint", "load", "save"]
