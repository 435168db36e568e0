"""Layers that are causal in time: no frame sees a later one, and a first frame is treated as an image."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

Memory = dict[nn.Module, Tensor]  # what each layer remembers of a clip that comes in parts


class CausalConv3d(nn.Module):
    """A convolution over (B, C, T, H, W), padded by zeros and in time on the left only.

    With stride s in time, 1 + s k frames give 1 + k: the first alone, then one for every s. A single frame
    meets only the last temporal slice of the kernel, so it takes the cheaper two-dimensional convolution.
    """

    def __init__(
        self, inputs: int, outputs: int, *, kernel: int = 3, time_stride: int = 1, stride: int = 1
    ) -> None:
        super().__init__()
        self.memory: Memory | None = None
        self.time_stride, self.stride = time_stride, stride
        self.weight = nn.Parameter(torch.empty(outputs, inputs, kernel, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        if self.memory is not None:
            return self.proceed(x, self.memory)
        if x.shape[2] == 1:
            return self.image(x[:, :, 0])[:, :, None]
        return self.video(x)

    def image(self, x: Tensor) -> Tensor:
        """Convolve x (B, C, H, W); returns (B, C', H / stride, W / stride)."""
        padding = self.weight.shape[-1] // 2
        return F.conv2d(x, self.weight[:, :, -1], self.bias, stride=self.stride, padding=padding)

    def video(self, x: Tensor) -> Tensor:
        """Convolve x (B, C, T, H, W) of any T; the plain twin of `image` at T=1."""
        return self._convolve(F.pad(x, (0, 0, 0, 0, self.weight.shape[2] - 1, 0)))

    def proceed(self, x: Tensor, memory: Memory) -> Tensor:
        """Convolve the next frames of a clip, after the remembered ones: 1 + s k at first, then s k."""
        kernel = self.weight.shape[2]
        past = memory.get(self)
        x = F.pad(x, (0, 0, 0, 0, kernel - 1, 0)) if past is None else torch.cat([past, x], dim=2)
        memory[self] = x[:, :, x.shape[2] - (kernel - self.time_stride) :]
        return self._convolve(x)

    def _convolve(self, x: Tensor) -> Tensor:
        rows = self.weight.shape[-1] // 2
        stride = (self.time_stride, self.stride, self.stride)
        return F.conv3d(x, self.weight, self.bias, stride=stride, padding=(0, rows, rows))


class PixelNorm(nn.Module):
    """RMSNorm over the channels of every pixel of every frame by itself, so that no frame touches another."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x.movedim(1, -1), self.scale.shape, self.scale, eps=1e-6).movedim(-1, 1)


class ResidualBlock(nn.Module):
    """Two convolutions, each behind norm and SiLU, around a skip; the second starts at zero."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm_1, self.norm_2 = PixelNorm(channels), PixelNorm(channels)
        self.conv_1, self.conv_2 = CausalConv3d(channels, channels), CausalConv3d(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv_1(F.silu(self.norm_1(x)))
        return x + self.conv_2(F.silu(self.norm_2(hidden)))


class Upsample(nn.Module):
    """More frames, rows and columns by a convolution whose channels become neighbours in time and space.

    From 1 + k frames it makes 1 + time k: the first frame is one frame, so its earlier twins are dropped.
    """

    def __init__(self, inputs: int, outputs: int, *, time: int, space: int) -> None:
        super().__init__()
        self.memory: Memory | None = None
        self.time, self.space = time, space
        self.conv = CausalConv3d(inputs, outputs * time * space**2)

    def forward(self, x: Tensor) -> Tensor:
        pattern = "b (c st sh sw) t h w -> b c (t st) (h sh) (w sw)"
        x = rearrange(self.conv(x), pattern, st=self.time, sh=self.space, sw=self.space)
        if self.memory is not None:
            if self in self.memory:
                return x
            self.memory[self] = x[:0]  # empty: the first frames have passed
        return x[:, :, self.time - 1 :]


def patches(pixels: Tensor, size: int) -> Tensor:
    """Fold squares of size x size pixels of every frame into channels."""
    return rearrange(pixels, "b c t (h p) (w q) -> b (c p q) t h w", p=size, q=size)


def unpatches(x: Tensor, size: int) -> Tensor:
    """Undo `patches`."""
    return rearrange(x, "b (c p q) t h w -> b c t (h p) (w q)", p=size, q=size)
