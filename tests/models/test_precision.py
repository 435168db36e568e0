"""The stated precision of networks outside of training: what auto is, and how far from fp32 it lies."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from models.autoencoder import kl
from models.denoisers.dit import DiTConfig
from models.denoisers.network import example_inputs
from models.precision import TOLERANCE, Precision, compute_in, number_type, settle_precision

CONFIG = DiTConfig(width=64, depth=4, heads=4, num_classes=3, positions="rotary", qk_norm=True)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.cuda)]


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    yield
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def test_auto_is_fast_on_cuda_and_exact_elsewhere() -> None:
    assert settle_precision("auto", "cuda", "bf16") == "bf16"
    assert settle_precision("auto", "cpu", "bf16") == "fp32"
    assert settle_precision("fp32", "cuda", "bf16") == "fp32"


@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_what_stays_in_float32_is_exact_where_that_is_asked_for(precision: Precision) -> None:
    compute_in(precision)
    flags = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    assert flags == ((precision != "fp32",) * 2)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("precision", ["tf32", "bf16"])
def test_a_denoiser_is_equal_within_the_tolerance(precision: Precision, device: str) -> None:
    torch.manual_seed(0)
    model = CONFIG.build().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter), alpha=0.05)
    place = torch.device(device)
    x, time, condition = example_inputs(CONFIG, (4, 4, 1, 16, 16), place)
    x = torch.randn(x.shape, generator=torch.Generator().manual_seed(1)).to(place)

    def answer(precision: Precision) -> torch.Tensor:
        compute_in(precision)
        with torch.no_grad():
            return model.to(place, number_type(precision))(x, time, condition)

    exact = answer("fp32")
    found = answer(precision)
    assert found.dtype == torch.float32
    assert float((found - exact).norm() / exact.norm()) < TOLERANCE[precision]


@pytest.mark.cuda
def test_an_autoencoder_is_equal_within_the_tolerance() -> None:
    torch.manual_seed(0)
    network = kl.Autoencoder(kl.KLConfig(width=32, channel_multipliers=(1, 2, 2), blocks=1)).cuda().eval()
    pixels = torch.randn(2, 3, 1, 64, 64, device="cuda").clamp(-1, 1)
    with torch.no_grad():
        compute_in("fp32")
        exact = network.encode(pixels)
        compute_in("tf32")
        found = network.encode(pixels)
    assert float((found - exact).norm() / exact.norm()) < TOLERANCE["tf32"]
