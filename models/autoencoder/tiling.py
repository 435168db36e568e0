"""Encode and decode in parts, for inputs whose activations do not fit the memory.

Space: every tile is computed with as much of its surroundings as the network looks at, and these are cut off
again, so that there is nothing to blend: tiled and whole agree to rounding. Time: the network is causal, so a
convolution that remembers its last frames continues as if it had never stopped.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor, nn

from core.errors import UserError
from models.autoencoder.layers import CausalConv3d, Upsample
from models.autoencoder.tiling_config import TilingConfig


class Layout(Protocol):
    """The properties of an autoencoder's configuration from which the overlap of tiles follows."""

    @property
    def spatial_compression(self) -> int: ...
    @property
    def temporal_compression(self) -> int: ...
    @property
    def patch(self) -> int: ...
    @property
    def blocks(self) -> int: ...
    def strides(self) -> list[tuple[int, int]]: ...


def check(config: Layout, tiling: TilingConfig) -> None:
    """Raise UserError for tiles that do not end where latents do."""
    space, time = config.spatial_compression, config.temporal_compression
    if tiling.pixels % space:
        raise UserError("pixels", tiling.pixels, f"a multiple of {space} (spatial_compression)")
    if tiling.frames % time:
        raise UserError("frames", tiling.frames, f"a multiple of {time} (temporal_compression)")


def encode(network: nn.Module, config: Layout, tiling: TilingConfig, pixels: Tensor) -> Tensor:
    """Return the encoder's output (B, 2C, T', H', W') of pixels (B, 3, T, H, W)."""
    space, (margin, _) = config.spatial_compression, margins(config)
    tile = tiling.pixels // space or max(pixels.shape[-2:]) // space
    frames = tiling.frames or pixels.shape[2]

    def part(rows: slice, columns: slice) -> Tensor:
        scaled = [slice(s.start * space, s.stop * space) for s in (rows, columns)]
        return _in_time(network, pixels[..., scaled[0], scaled[1]], frames)

    size = (pixels.shape[-2] // space, pixels.shape[-1] // space)
    return _in_space(part, size, tile, margin // space, scale=1)


def decode(network: nn.Module, config: Layout, tiling: TilingConfig, latents: Tensor) -> Tensor:
    """Return the decoder's output (B, 3, T, H, W) of latents (B, C, T', H', W')."""
    space, (_, margin) = config.spatial_compression, margins(config)
    tile = tiling.pixels // space or max(latents.shape[-2:])
    frames = tiling.frames // config.temporal_compression or latents.shape[2]

    def part(rows: slice, columns: slice) -> Tensor:
        return _in_time(network, latents[..., rows, columns], frames)

    return _in_space(part, (latents.shape[-2], latents.shape[-1]), tile, margin, scale=space)


def margins(config: Layout) -> tuple[int, int]:
    """Return how far encoder (pixels, in whole latents) and decoder (latents) look beyond their output.

    Every 3x3 convolution looks one cell of its level further.
    """
    blocks, cell = 2 * config.blocks, config.patch
    encoder, decoder = cell * (1 + blocks), float(cell * (1 + blocks))  # with the stem; with the head
    for _, space in config.strides():
        encoder += cell  # the convolution that strides
        cell *= space
        encoder += cell * blocks
        decoder += cell * (1 + blocks)  # the convolution that is spread over the finer level
    encoder, decoder = encoder + cell, decoder + cell  # the head; the stem
    whole = config.spatial_compression
    return math.ceil(encoder / whole) * whole, math.ceil(decoder / whole)


def _in_space(
    part: Callable[[slice, slice], Tensor], size: tuple[int, int], tile: int, margin: int, *, scale: int
) -> Tensor:
    """Put together what `part` makes of latent rows and columns. scale: of its output over latents."""
    out: Tensor | None = None
    for rows, wide_rows in _ranges(size[0], tile, margin):
        for columns, wide_columns in _ranges(size[1], tile, margin):
            made = part(wide_rows, wide_columns)
            top, left = rows.start - wide_rows.start, columns.start - wide_columns.start
            height, width = rows.stop - rows.start, columns.stop - columns.start
            kept = made[..., top * scale : (top + height) * scale, left * scale : (left + width) * scale]
            if out is None:
                out = made.new_empty(*made.shape[:3], size[0] * scale, size[1] * scale)
            out[
                ...,
                rows.start * scale : rows.stop * scale,
                columns.start * scale : columns.stop * scale,
            ] = kept
    assert out is not None, "an input has rows and columns"
    return out


def _ranges(size: int, tile: int, margin: int) -> Iterator[tuple[slice, slice]]:
    """Return each tile's range, and the range with its margin."""
    for start in range(0, size, tile):
        stop = min(start + tile, size)
        yield slice(start, stop), slice(max(0, start - margin), min(size, stop + margin))


def _in_time(network: nn.Module, x: Tensor, frames: int) -> Tensor:
    """Compute the network's output for x (B, C, T, H, W): 1 + frames, then `frames` at a time."""
    if x.shape[2] <= 1 + frames:
        return network(x)
    with remembering(network):
        parts = [network(x[:, :, : 1 + frames])]
        for start in range(1 + frames, x.shape[2], frames):
            parts.append(network(x[:, :, start : start + frames]))
    return torch.cat(parts, dim=2)


@contextmanager
def remembering(network: nn.Module) -> Iterator[None]:
    """Make each call within the block continue the clip of the call before."""
    layers = [layer for layer in network.modules() if isinstance(layer, CausalConv3d | Upsample)]
    memory: dict[nn.Module, Tensor] = {}
    for layer in layers:
        layer.memory = memory
    try:
        yield
    finally:
        for layer in layers:
            layer.memory = None
