"""The Inception network of FID, in the layout of the weights that torch-fidelity and pytorch-fid publish.

Szegedy et al. 2016 ("Rethinking the Inception architecture"), as TensorFlow's 2015-12-05 graph has it: batch
normalisation with epsilon 0.001, average pools that leave the padding out, a maximum pool in the last block,
1,008 classes, pictures enlarged to 299x299 by TensorFlow 1's bilinear rule and scaled to (x - 128) / 128.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from core.errors import UserError

SIDE = 299
WIDTH = 2048
CLASSES = 1008
SPATIAL = 7  # channels of `mixed_6/conv`, 17x17, that sFID takes (Nash et al. 2021; ADM's evaluator)
Size = int | tuple[int, int]


class Features(NamedTuple):
    """The features and class logits of pictures.

    pool: (B, 2048).  spatial: (B, 2023).  logits: (B, 1008), without bias.
    """

    pool: Tensor
    spatial: Tensor
    logits: Tensor


class Convolution(nn.Module):
    """Convolution, batch normalisation, ReLU."""

    def __init__(self, inputs: int, outputs: int, size: Size, stride: int = 1, padding: Size = 0) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, padding, bias=False)
        self.bn = nn.BatchNorm2d(outputs, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)))


def _mean(x: Tensor) -> Tensor:
    return functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


class BlockA(nn.Module):
    """35x35: one, five, and twice three wide."""

    def __init__(self, inputs: int, pooled: int) -> None:
        super().__init__()
        self.branch1x1 = Convolution(inputs, 64, 1)
        self.branch5x5_1 = Convolution(inputs, 48, 1)
        self.branch5x5_2 = Convolution(48, 64, 5, padding=2)
        self.branch3x3dbl_1 = Convolution(inputs, 64, 1)
        self.branch3x3dbl_2 = Convolution(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Convolution(96, 96, 3, padding=1)
        self.branch_pool = Convolution(inputs, pooled, 1)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        wide = self.branch5x5_2(self.branch5x5_1(x))
        return torch.cat([self.branch1x1(x), wide, double, self.branch_pool(_mean(x))], 1)


class BlockB(nn.Module):
    """35x35 to 17x17."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.branch3x3 = Convolution(inputs, 384, 3, stride=2)
        self.branch3x3dbl_1 = Convolution(inputs, 64, 1)
        self.branch3x3dbl_2 = Convolution(64, 96, 3, padding=1)
        self.branch3x3dbl_3 = Convolution(96, 96, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        double = self.branch3x3dbl_3(self.branch3x3dbl_2(self.branch3x3dbl_1(x)))
        return torch.cat([self.branch3x3(x), double, functional.max_pool2d(x, 3, 2)], 1)


class BlockC(nn.Module):
    """17x17: rows and columns of seven."""

    def __init__(self, inner: int) -> None:
        super().__init__()
        self.branch1x1 = Convolution(768, 192, 1)
        self.branch7x7_1 = Convolution(768, inner, 1)
        self.branch7x7_2 = Convolution(inner, inner, (1, 7), 1, (0, 3))
        self.branch7x7_3 = Convolution(inner, 192, (7, 1), 1, (3, 0))
        self.branch7x7dbl_1 = Convolution(768, inner, 1)
        self.branch7x7dbl_2 = Convolution(inner, inner, (7, 1), 1, (3, 0))
        self.branch7x7dbl_3 = Convolution(inner, inner, (1, 7), 1, (0, 3))
        self.branch7x7dbl_4 = Convolution(inner, inner, (7, 1), 1, (3, 0))
        self.branch7x7dbl_5 = Convolution(inner, 192, (1, 7), 1, (0, 3))
        self.branch_pool = Convolution(768, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        single = self.branch7x7_3(self.branch7x7_2(self.branch7x7_1(x)))
        double = self.branch7x7dbl_3(self.branch7x7dbl_2(self.branch7x7dbl_1(x)))
        double = self.branch7x7dbl_5(self.branch7x7dbl_4(double))
        return torch.cat([self.branch1x1(x), single, double, self.branch_pool(_mean(x))], 1)


class BlockD(nn.Module):
    """17x17 to 8x8."""

    def __init__(self) -> None:
        super().__init__()
        self.branch3x3_1 = Convolution(768, 192, 1)
        self.branch3x3_2 = Convolution(192, 320, 3, stride=2)
        self.branch7x7x3_1 = Convolution(768, 192, 1)
        self.branch7x7x3_2 = Convolution(192, 192, (1, 7), padding=(0, 3))
        self.branch7x7x3_3 = Convolution(192, 192, (7, 1), padding=(3, 0))
        self.branch7x7x3_4 = Convolution(192, 192, 3, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        seven = self.branch7x7x3_4(self.branch7x7x3_3(self.branch7x7x3_2(self.branch7x7x3_1(x))))
        return torch.cat([self.branch3x3_2(self.branch3x3_1(x)), seven, functional.max_pool2d(x, 3, 2)], 1)


class BlockE(nn.Module):
    """8x8.  last: the pool of the last block is a maximum, as the published graph has it."""

    def __init__(self, inputs: int, *, last: bool) -> None:
        super().__init__()
        self.last = last
        self.branch1x1 = Convolution(inputs, 320, 1)
        self.branch3x3_1 = Convolution(inputs, 384, 1)
        self.branch3x3_2a = Convolution(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3_2b = Convolution(384, 384, (3, 1), padding=(1, 0))
        self.branch3x3dbl_1 = Convolution(inputs, 448, 1)
        self.branch3x3dbl_2 = Convolution(448, 384, 3, padding=1)
        self.branch3x3dbl_3a = Convolution(384, 384, (1, 3), padding=(0, 1))
        self.branch3x3dbl_3b = Convolution(384, 384, (3, 1), padding=(1, 0))
        self.branch_pool = Convolution(inputs, 192, 1)

    def forward(self, x: Tensor) -> Tensor:
        single, double = self.branch3x3_1(x), self.branch3x3dbl_2(self.branch3x3dbl_1(x))
        pooled = functional.max_pool2d(x, 3, 1, 1) if self.last else _mean(x)
        parts = [
            self.branch1x1(x),
            self.branch3x3_2a(single),
            self.branch3x3_2b(single),
            self.branch3x3dbl_3a(double),
            self.branch3x3dbl_3b(double),
            self.branch_pool(pooled),
        ]
        return torch.cat(parts, 1)


class Inception(nn.Module):
    """Pictures (B, 3, H, W), 0 to 255, to `Features`."""

    def __init__(self) -> None:
        super().__init__()
        self.Conv2d_1a_3x3 = Convolution(3, 32, 3, stride=2)
        self.Conv2d_2a_3x3 = Convolution(32, 32, 3)
        self.Conv2d_2b_3x3 = Convolution(32, 64, 3, padding=1)
        self.Conv2d_3b_1x1 = Convolution(64, 80, 1)
        self.Conv2d_4a_3x3 = Convolution(80, 192, 3)
        self.Mixed_5b, self.Mixed_5c, self.Mixed_5d = BlockA(192, 32), BlockA(256, 64), BlockA(288, 64)
        self.Mixed_6a = BlockB(288)
        self.Mixed_6b, self.Mixed_6c, self.Mixed_6d = BlockC(128), BlockC(160), BlockC(160)
        self.Mixed_6e = BlockC(192)
        self.Mixed_7a = BlockD()
        self.Mixed_7b, self.Mixed_7c = BlockE(1280, last=False), BlockE(2048, last=True)
        self.fc = nn.Linear(WIDTH, CLASSES)

    def forward(self, pictures: Tensor) -> Features:
        x = (tensorflow_resize(pictures.float(), SIDE) - 128) / 128
        x = self.Conv2d_2b_3x3(self.Conv2d_2a_3x3(self.Conv2d_1a_3x3(x)))
        x = self.Conv2d_4a_3x3(self.Conv2d_3b_1x1(functional.max_pool2d(x, 3, 2)))
        x = self.Mixed_5d(self.Mixed_5c(self.Mixed_5b(functional.max_pool2d(x, 3, 2))))
        x = self.Mixed_6c(self.Mixed_6b(self.Mixed_6a(x)))
        spatial = self.Mixed_6d.branch1x1(x)[:, :SPATIAL]
        x = self.Mixed_7a(self.Mixed_6e(self.Mixed_6d(x)))
        pool = self.Mixed_7c(self.Mixed_7b(x)).mean((2, 3))
        # Channels last, as TensorFlow flattens them.
        return Features(pool, spatial.permute(0, 2, 3, 1).flatten(1), pool @ self.fc.weight.T)


def tensorflow_resize(pictures: Tensor, side: int) -> Tensor:
    """Resize (B, C, H, W) to `side` x `side` as TensorFlow 1 does: bilinear, without half-pixel centres, and
    without a filter where pictures shrink.
    """
    height, width = pictures.shape[2:]
    for axis, size in ((2, height), (3, width)):
        place = torch.arange(side, device=pictures.device, dtype=torch.float32) * (size / side)
        below = place.floor().long()
        above = (below + 1).clamp_max(size - 1)
        weight = (place - below).to(pictures.dtype)
        weight = weight[:, None] if axis == 2 else weight
        lower, upper = pictures.index_select(axis, below), pictures.index_select(axis, above)
        pictures = lower + (upper - lower) * weight
    return pictures


def load(state: Mapping[str, Tensor], field: str, source: object) -> Inception:
    """Return the network with published weights, in evaluation mode.

    UserError, naming `field`, where names or shapes are not those of the published file. Counters of batches
    and the auxiliary classifier may be there; they are not used.
    """
    with torch.device("meta"):
        network = Inception()
    wanted = {
        name: tensor.shape for name, tensor in network.state_dict().items() if "num_batches" not in name
    }
    missing = [name for name, shape in wanted.items() if name not in state or state[name].shape != shape]
    if missing:
        layout = "FID's Inception weights in torch-fidelity's layout"
        raise UserError(field, source, f"{layout}; {len(missing)} do not fit, {missing[0]} first")
    counters = {
        name: torch.zeros((), dtype=torch.int64) for name in network.state_dict() if name not in wanted
    }
    given = {name: state[name].float() for name in wanted}
    network.load_state_dict({**given, **counters}, assign=True)
    return network.eval().requires_grad_(False)
