"""Compare MACs with torch's own counter and with the published table."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from core.batch import Condition
from models.denoisers.dit import DiT, DiTConfig
from models.denoisers.network import forward_macs, train_flops

# "Gflops" of table 4 of arXiv:2212.09748: latents of 256 x 256 images, 32 x 32.
PUBLISHED = {
    "DiT-S/8": 0.36, "DiT-S/4": 1.41, "DiT-S/2": 6.06, "DiT-B/8": 1.42, "DiT-B/4": 5.56, "DiT-B/2": 23.01,
    "DiT-L/8": 5.01, "DiT-L/4": 19.70, "DiT-L/2": 80.71,
    "DiT-XL/8": 7.39, "DiT-XL/4": 29.05, "DiT-XL/2": 118.64,
}  # fmt: skip
SMALL = DiTConfig(width=32, depth=2, heads=4, num_classes=3, attention="math")


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_table(name: str) -> None:
    macs = forward_macs(DiTConfig.presets[name], (1, 32, 32))
    assert macs / 1e9 == pytest.approx(PUBLISHED[name], abs=0.02)


@pytest.mark.parametrize(
    ("config", "shape", "text_tokens"),
    [
        (SMALL, (1, 8, 8), 0),
        (replace(SMALL, learned_sigma=True, patch=(1, 4, 2), mlp_ratio=2.5), (3, 8, 6), 0),
        (
            replace(SMALL, qk_norm=True, positions="rotary", frame_condition=True, patch=(2, 2, 2)),
            (4, 4, 8),
            0,
        ),
        (replace(SMALL, text_width=20), (1, 8, 8), 7),
    ],
)
def test_equals_what_torch_counts(config: DiTConfig, shape: tuple[int, int, int], text_tokens: int) -> None:
    torch.manual_seed(0)
    model, batch = DiT(config), 2
    text = torch.randn(batch, text_tokens, 20) if text_tokens else None
    x = torch.randn(batch, config.input_channels, *shape)
    with FlopCounterMode(display=False) as counter:
        model(x, torch.full((batch,), 500.0), Condition(text=text))
    assert counter.get_total_flops() == 2 * batch * forward_macs(config, shape, text_tokens)


def test_training_is_three_forwards_less_the_gradients_of_inputs() -> None:
    torch.manual_seed(0)
    model, batch = DiT(SMALL), 2
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(batch, 4, 1, 8, 8), torch.full((batch,), 500.0), Condition()).sum().backward()
    of_inputs = 2 * batch * (4 * 1 * 8 * 8 * SMALL.width + 256 * SMALL.width)
    assert counter.get_total_flops() + of_inputs == batch * train_flops(SMALL, (1, 8, 8))
