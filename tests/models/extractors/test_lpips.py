"""LPIPS: a distance re-derived layer by layer, the published layouts, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from core.errors import UserError
from models.extractors import lpips
from tests.models.extractors.made_weights import save_lpips


def test_the_distance_is_the_papers_with_alexnet(tmp_path: Path) -> None:
    trunk, weights = save_lpips(tmp_path, "alex")
    network = lpips.load(trunk, weights)
    a, b = (torch.rand(2, 3, 64, 72, generator=torch.manual_seed(seed)) * 2 - 1 for seed in (0, 1))
    state, linear = torch.load(trunk), torch.load(weights)
    shift = torch.tensor([-0.030, -0.088, -0.188])[:, None, None]
    scale = torch.tensor([0.458, 0.448, 0.450])[:, None, None]
    x, y, expected = (a - shift) / scale, (b - shift) / scale, torch.zeros(2)
    options = ((0, 4, 2), (3, 1, 2), (6, 1, 1), (8, 1, 1), (10, 1, 1))
    for number, (layer, stride, padding) in enumerate(options):
        if number in (1, 2):
            x, y = F.max_pool2d(x, 3, 2), F.max_pool2d(y, 3, 2)
        kernel, bias = state[f"features.{layer}.weight"], state[f"features.{layer}.bias"]
        x, y = (F.relu(F.conv2d(each, kernel, bias, stride, padding)) for each in (x, y))
        unit = [each / (each.pow(2).sum(1, keepdim=True).sqrt() + 1e-10) for each in (x, y)]
        compared = F.conv2d((unit[0] - unit[1]).pow(2), linear[f"lin{number}.model.1.weight"])
        expected += compared.mean((1, 2, 3))
    assert torch.allclose(network(a, b), expected, rtol=1e-5)
    assert torch.equal(network(a, a), torch.zeros(2))
    assert torch.allclose(network(a, b), network(b, a))


def test_vgg_is_known_by_its_files(tmp_path: Path) -> None:
    network = lpips.load(*save_lpips(tmp_path, "vgg"))
    assert network.kind == "vgg"
    assert [len(weight) for weight in network.weights] == [64, 128, 256, 512, 512]
    layers = [i for i, layer in enumerate(network.features) if isinstance(layer, torch.nn.Conv2d)]
    assert layers == [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]  # torchvision's vgg16
    pictures = torch.rand(1, 3, 32, 32)
    assert network(pictures, -pictures) > 0


def test_other_files_are_refused_by_field(tmp_path: Path) -> None:
    trunk, weights = save_lpips(tmp_path, "alex")
    _, other = save_lpips(tmp_path, "vgg")
    with pytest.raises(UserError, match=r"lpips_network=.*missing: expected a network of torchvision"):
        lpips.load(tmp_path / "missing", weights)
    with pytest.raises(UserError, match=r"lpips_weights=.*: expected the weights of alex, 192 of layer 1"):
        lpips.load(trunk, other)
    with pytest.raises(UserError, match=r"lpips_network=.*torchvision's vgg: features.0.weight"):
        lpips.load(weights, weights)
