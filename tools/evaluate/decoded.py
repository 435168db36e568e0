"""Outputs of the autoencoder alone: copies of real images, and images decoded from noise."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.draws import Draws
from data.media.images import from_tensor, to_tensor
from models.autoencoder.interface import AnyAutoencoder
from models.autoencoder.opening import open_autoencoder
from models.autoencoder.psnr import psnr
from tools.evaluate.measures import frechet
from tools.runs import score_names as names

if TYPE_CHECKING:
    from tools.evaluate.judge import Judge
    from tools.evaluate.real_samples import RealSamples

Images = NDArray[np.uint8]
BATCH = 64
MOST = 256  # real images that the spread of latents is measured on


def reconstruction_psnr(folder: Path, images: Images) -> float:
    """Return the PSNR in dB of images (N, H, W, 3) after encoding (posterior mean) and decoding."""
    autoencoder = open_autoencoder(folder)
    return psnr(images, _decode(autoencoder, _encode(autoencoder, images)))


def decoded_noise(folder: Path, images: Images, count: int, seed: int) -> Images:
    """Decode noise with the mean and spread that each channel has in latents of `images`: (count, H, W, 3).

    It has the look of the autoencoder, and nothing of what a denoiser has learned.
    """
    autoencoder = open_autoencoder(folder)
    latents = _encode(autoencoder, images[:MOST])
    std, mean = torch.std_mean(latents, dim=(0, 2, 3, 4), keepdim=True)
    rows = torch.arange(count)
    noise = Draws(seed, 0, rows, rows).normal("decoded noise", tuple(latents.shape[1:]))
    return _decode(autoencoder, mean + std * noise)


def beside_noise(
    judge: Judge, made: list[Images], heldout: RealSamples, autoencoder: Path, *, count: int, seed: int
) -> dict[str, float]:
    """Return Fréchet distances to held-out images: of generated ones, and of noise that was decoded.

    What is not nearer than the noise shows nothing that the denoiser has learned. All sets are of one size.
    made: arrays (n, H, W, 3), {} is returned without any.
    """
    size = min([count, len(heldout.images), *map(len, made)])
    if not made or size < 2:
        return {}
    noise = decoded_noise(autoencoder, heldout.images, size, seed)
    real, generated, decoded = (judge.features(images[:size]) for images in (heldout.images, made[0], noise))
    return {names.FRECHET_HELDOUT: frechet(generated, real), names.FRECHET_NOISE: frechet(decoded, real)}


@torch.no_grad()
def _encode(autoencoder: AnyAutoencoder, images: Images) -> Tensor:
    parts = (to_tensor(images[start : start + BATCH, None]) for start in range(0, len(images), BATCH))
    return torch.cat([autoencoder.encode(part)[:, 0] for part in parts])


@torch.no_grad()
def _decode(autoencoder: AnyAutoencoder, latents: Tensor) -> Images:
    return np.concatenate([from_tensor(autoencoder.decode(part))[:, 0] for part in latents.split(BATCH)])
