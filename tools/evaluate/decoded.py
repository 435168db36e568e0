"""Outputs of the autoencoder alone: copies of real images, and images decoded from noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from core.draws import Draws
from data.media.images import from_tensor, to_tensor
from models.autoencoder.interface import AnyAutoencoder
from models.autoencoder.opening import open_autoencoder
from models.autoencoder.psnr import psnr

Images = NDArray[np.uint8]
BATCH = 64
MOST = 256  # real images that the spread of latents is measured on


def reconstruction_psnrs(autoencoder: AnyAutoencoder, images: Images) -> NDArray[np.float64]:
    """Return the PSNR in dB of each image (n, H, W, 3) after encoding (posterior mean) and decoding."""
    copies = _decode(autoencoder, _encode(autoencoder, images))
    return np.array([psnr(a[None], b[None]) for a, b in zip(images, copies, strict=True)], np.float64)


def decoded_noise(folder: Path, images: Images, count: int, seed: int) -> Images:
    """Decode noise with the mean and spread that each channel has in latents of `images`: (count, H, W, 3).

    images: MOST, or fewer where there are not as many. It has the look of the autoencoder, and nothing of
    what a denoiser has learned.
    """
    autoencoder = open_autoencoder(folder)
    latents = _encode(autoencoder, images)
    std, mean = torch.std_mean(latents, dim=(0, 2, 3, 4), keepdim=True)
    rows = torch.arange(count)
    noise = Draws(seed, 0, rows, rows).normal("decoded noise", tuple(latents.shape[1:]))
    return _decode(autoencoder, mean + std * noise)


@torch.no_grad()
def _encode(autoencoder: AnyAutoencoder, images: Images) -> Tensor:
    parts = (to_tensor(images[start : start + BATCH, None]) for start in range(0, len(images), BATCH))
    return torch.cat([autoencoder.encode(part)[:, 0] for part in parts])


@torch.no_grad()
def _decode(autoencoder: AnyAutoencoder, latents: Tensor) -> Images:
    return np.concatenate([from_tensor(autoencoder.decode(part))[:, 0] for part in latents.split(BATCH)])
