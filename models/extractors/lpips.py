"""LPIPS, the learned distance of two pictures (Zhang et al. 2018, version 0.1), from published weights.

Features of AlexNet or VGG-16 in the layout of torchvision, and one weight a channel in that of the authors'
package (`alex.pth`, `vgg.pth`). Which of the two networks it is follows from the files.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from core.checkpoint.torch_file import read_tensors
from core.errors import UserError

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of pictures in [-1, 1]
TINY = 1e-10  # added to the length of a feature


@dataclass(frozen=True)
class Trunk:
    """A network of convolutions.  taps: the layers behind which features are compared."""

    layers: tuple[nn.Module, ...]
    taps: tuple[int, ...]


def _alexnet() -> Trunk:
    sizes = (
        (3, 64, 11, 4, 2),
        (64, 192, 5, 1, 2),
        (192, 384, 3, 1, 1),
        (384, 256, 3, 1, 1),
        (256, 256, 3, 1, 1),
    )
    layers: list[nn.Module] = []
    for number, size in enumerate(sizes):
        layers += [nn.Conv2d(*size), nn.ReLU()]
        if number < 2:
            layers.append(nn.MaxPool2d(3, 2))
    return Trunk(tuple(layers), (1, 4, 7, 9, 11))


def _vgg16() -> Trunk:
    layers: list[nn.Module] = []
    inputs = 3
    for number, (count, width) in enumerate(((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))):
        if number:
            layers.append(nn.MaxPool2d(2, 2))
        for _ in range(count):
            layers += [nn.Conv2d(inputs, width, 3, padding=1), nn.ReLU()]
            inputs = width
    return Trunk(tuple(layers), (3, 8, 15, 22, 29))


TRUNKS = {"alex": _alexnet, "vgg": _vgg16}


class Lpips(nn.Module):
    """The distance.  kind: "alex" or "vgg"."""

    shift: Tensor
    scale: Tensor

    def __init__(self, kind: str) -> None:
        super().__init__()
        trunk = TRUNKS[kind]()
        self.kind, self.taps = kind, trunk.taps
        self.features = nn.Sequential(*trunk.layers)
        widths = [layer.out_channels for layer in trunk.layers if isinstance(layer, nn.Conv2d)]
        convolutions = [i for i, layer in enumerate(trunk.layers) if isinstance(layer, nn.Conv2d)]
        tapped = [widths[convolutions.index(tap - 1)] for tap in trunk.taps]
        self.weights = nn.ParameterList(nn.Parameter(torch.empty(width)) for width in tapped)
        for name, values in (("shift", SHIFT), ("scale", SCALE)):
            self.register_buffer(name, torch.tensor(values)[:, None, None])

    @torch.no_grad()
    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Return the distances (B,) of pictures (B, 3, H, W) in [-1, 1]."""
        total = torch.zeros(len(a), device=a.device)
        both, tap = (torch.cat([a, b]) - self.shift) / self.scale, 0
        for number, layer in enumerate(self.features):
            both = layer(both)
            if tap < len(self.taps) and number == self.taps[tap]:
                x, y = (both / (both.square().sum(1, keepdim=True).sqrt() + TINY)).chunk(2)
                weighted = (x - y).square() * self.weights[tap][:, None, None]
                total = total + weighted.sum(1).mean((1, 2))
                tap += 1
        return total


def load(trunk: Path, weights: Path) -> Lpips:
    """Load the distance from the file of a network and that of its weights a channel.

    UserError names `lpips_network` or `lpips_weights`.
    """
    features = _read(trunk, "lpips_network", "a network of torchvision (alexnet-*.pth, vgg16-*.pth)")
    linear = _read(weights, "lpips_weights", "alex.pth or vgg.pth of the LPIPS package")
    kind = "alex" if _width(features) == 11 else "vgg"
    network = Lpips(kind)
    _fill(network.features.state_dict(), features, "features.", trunk, "lpips_network", kind)
    for number, parameter in enumerate(network.weights):
        found = linear.get(f"lin{number}.model.1.weight")
        if found is None or found.numel() != parameter.numel():
            expected = f"the weights of {kind}, {parameter.numel()} of layer {number}"
            raise UserError("lpips_weights", weights, expected)
        parameter.data.copy_(found.flatten())
    return network.eval().requires_grad_(False)


def _width(features: Mapping[str, Tensor]) -> int:
    first = features.get("features.0.weight")
    return 0 if first is None else int(first.shape[-1])


def _read(path: Path, field: str, expected: str) -> dict[str, Tensor]:
    if not path.is_file():
        raise UserError(field, path, expected)
    return read_tensors(path, field)


def _fill(
    own: Mapping[str, Tensor], found: Mapping[str, Tensor], prefix: str, path: Path, field: str, kind: str
) -> None:
    """Copy tensors by name; UserError names the first that is missing or of another shape."""
    for name, tensor in own.items():
        other = found.get(prefix + name)
        if other is None or other.shape != tensor.shape:
            raise UserError(
                field, path, f"torchvision's {kind}: {prefix}{name} of shape {tuple(tensor.shape)}"
            )
        tensor.copy_(other)
