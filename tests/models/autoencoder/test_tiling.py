"""Encoding and decoding in parts gives what whole inputs give."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from core.errors import UserError
from models.autoencoder import tiling
from models.autoencoder.kl import Autoencoder, KLConfig
from models.autoencoder.tiling_config import TilingConfig

CONFIG = KLConfig(
    latent_channels=2,
    spatial_compression=4,
    temporal_compression=4,
    patch=2,
    width=8,
    channel_multipliers=(1, 1, 1),
    blocks=1,
)
TOLERANCE = 1e-5  # of float32, where values are of order 1


def make(config: KLConfig = CONFIG) -> Autoencoder:
    """Make an autoencoder in which nothing is zero, so that every layer shows."""
    torch.manual_seed(0)
    autoencoder = Autoencoder(config).eval()
    for parameter in autoencoder.parameters():
        parameter.data += 0.05 * torch.randn_like(parameter)
    return autoencoder.requires_grad_(False)


def clip(frames: int, height: int, width: int) -> Tensor:
    return torch.rand(1, 3, frames, height, width, generator=torch.Generator().manual_seed(1)) * 2 - 1


@pytest.mark.parametrize("frames", [1, 13])
@pytest.mark.parametrize(
    "parts", [TilingConfig(pixels=40), TilingConfig(frames=4), TilingConfig(pixels=16, frames=8)], ids=str
)
def test_parts_and_whole_agree(frames: int, parts: TilingConfig) -> None:
    autoencoder, pixels = make(), clip(frames, 96, 44)
    latents = autoencoder.encode(pixels)
    decoded = autoencoder.decode(latents[:, 0])
    autoencoder.set_tiling(parts)
    assert (autoencoder.encode(pixels) - latents).abs().max() < TOLERANCE
    assert (autoencoder.decode(latents[:, 0]) - decoded).abs().max() < TOLERANCE
    assert decoded.shape == pixels.shape


@pytest.mark.parametrize(
    "config",
    [
        CONFIG,
        replace(
            CONFIG, spatial_compression=8, temporal_compression=2, blocks=2, channel_multipliers=(1, 1, 1)
        ),
        replace(CONFIG, patch=1, spatial_compression=2, temporal_compression=1, channel_multipliers=(1, 1)),
    ],
    ids=["4x4", "8x2", "2x1"],
)
def test_margins_are_how_far_the_network_looks(config: KLConfig) -> None:
    autoencoder, space = make(config), config.spatial_compression
    encoder, decoder = tiling.margins(config)
    size, middle = 2 * (encoder // space + 2) + 1, encoder // space + 2
    pixels = torch.zeros(1, 3, 1, space, size * space, requires_grad=True)
    autoencoder.encode(pixels)[..., middle].sum().backward()
    assert pixels.grad is not None
    seen = pixels.grad[0, :, 0].abs().sum((0, 1)).nonzero()
    reach = max(middle * space - int(seen.min()), int(seen.max()) - middle * space - space + 1)
    assert encoder - space < reach <= encoder
    latents = torch.zeros(1, 2, 1, 1, 2 * decoder + 5, requires_grad=True)
    middle = decoder + 2
    autoencoder.decode(latents)[..., middle * space : (middle + 1) * space].sum().backward()
    assert latents.grad is not None
    seen = latents.grad[0, :, 0].abs().sum((0, 1)).nonzero()
    assert max(middle - int(seen.min()), int(seen.max()) - middle) <= decoder


def test_too_narrow_a_margin_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    autoencoder, pixels = make(), clip(1, 96, 44)
    whole = autoencoder.encode(pixels)
    monkeypatch.setattr(tiling, "margins", lambda config: (4, 1))
    autoencoder.set_tiling(TilingConfig(pixels=16))
    assert (autoencoder.encode(pixels) - whole).abs().max() > 100 * TOLERANCE


def test_no_more_than_a_part_is_computed_at_once() -> None:
    autoencoder, shapes = make(), set()
    autoencoder.encoder.stem.register_forward_hook(lambda m, x, y: shapes.add(tuple(x[0].shape[2:])))
    autoencoder.set_tiling(TilingConfig(pixels=16, frames=4))
    autoencoder.encode(clip(13, 160, 16))
    margin, _ = tiling.margins(CONFIG)
    assert {frames for frames, *_ in shapes} == {5, 4}
    assert max(rows for _, rows, _ in shapes) == (16 + 2 * margin) // CONFIG.patch


def test_nothing_is_remembered_afterwards() -> None:
    autoencoder, pixels = make(), clip(9, 8, 8)
    whole = autoencoder.encode(pixels)
    autoencoder.set_tiling(TilingConfig(frames=4))
    autoencoder.encode(pixels)
    autoencoder.set_tiling(TilingConfig())
    assert torch.equal(autoencoder.encode(pixels), whole)


@pytest.mark.parametrize("parts", [TilingConfig(pixels=10), TilingConfig(frames=3)], ids=str)
def test_parts_end_where_latents_do(parts: TilingConfig) -> None:
    with pytest.raises(UserError, match="expected a multiple of 4"):
        make().set_tiling(parts)
