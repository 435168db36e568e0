"""Weights of the Inception network at random, in the layout in which the published ones come."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from models.extractors import lpips
from models.extractors.inception import Inception


def random_weights(seed: int = 0) -> dict[str, Tensor]:
    """Return weights with which numbers keep their size from layer to layer."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        with torch.device("meta"):
            shapes = {name: tensor.shape for name, tensor in Inception().state_dict().items()}
        made = {}
        for name, shape in shapes.items():
            if name.endswith("num_batches_tracked"):
                continue
            if len(shape) > 1:
                made[name] = torch.randn(shape) * (2 / shape[1:].numel()) ** 0.5
            elif name.endswith(("running_var", "bn.weight")):
                made[name] = torch.rand(shape) + 0.5
            else:
                made[name] = 0.1 * torch.randn(shape)
    return made


def save_lpips(folder: Path, kind: str) -> tuple[Path, Path]:
    """Write random weights of LPIPS in the layouts of torchvision and of the authors: trunk, weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = lpips.Lpips(kind)
        weights = {
            f"lin{i}.model.1.weight": torch.rand(1, len(w), 1, 1) for i, w in enumerate(network.weights)
        }
    trunk, linear = folder / f"{kind}net.pth", folder / f"{kind}.pth"
    state = {f"features.{name}": tensor for name, tensor in network.features.state_dict().items()}
    torch.save(state | {"classifier.1.weight": torch.zeros(1)}, trunk)
    torch.save(weights, linear)
    return trunk, linear
