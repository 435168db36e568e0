"""Weights in the layout of the published SiT: the same network here, on its own clock, and back.

`sit_reference.npz` holds the velocity that the published code computes with the weights of `weights` at times
1, 0.583 and 0.001, which are 0, 417 and 999 thousandths of noise here.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from core.errors import UserError
from models.denoisers.dit import DiT, DiTConfig
from tests.tools.convert.test_dit_layout import LARGE, inputs, weights
from tools.convert.layouts import dit, sit

REFERENCE = Path(__file__).with_name("sit_reference.npz")


@pytest.fixture(scope="module")
def reference() -> dict[str, np.ndarray]:
    with np.load(REFERENCE) as file:
        return {name: file[name] for name in file.files}


def test_the_flow_is_the_published_velocity_turned(reference: dict[str, np.ndarray]) -> None:
    theirs = weights(LARGE, reference["positions"])
    read = sit.LAYOUT.read(theirs, LARGE.heads)
    model = DiT(read.config).eval()
    model.load_state_dict(read.state)
    with torch.inference_mode():
        found = model(*inputs(LARGE))[:, :, 0].numpy()
    assert np.abs(found + reference["velocity"]).max() < 1e-5
    assert read.config.output_channels == 4


def test_what_is_written_back_is_what_was_read_but_for_the_half_that_is_discarded(
    reference: dict[str, np.ndarray],
) -> None:
    theirs = weights(LARGE, reference["positions"])
    read = sit.LAYOUT.read(theirs, LARGE.heads)
    back = sit.LAYOUT.write(read.state, read.config, read.shape)
    assert back.keys() == theirs.keys()
    for name, tensor in theirs.items():
        if name == dit.POSITIONS:
            continue
        if name.startswith("final_layer.linear"):
            rows, kept = tensor.unflatten(0, (4, 2, 4)), back[name].unflatten(0, (4, 2, 4))
            assert torch.equal(kept[:, 0], rows[:, 0])
            assert not kept[:, 1].any()
        else:
            assert torch.equal(back[name], tensor)


def test_a_network_on_another_clock_is_refused() -> None:
    config = DiTConfig(width=32, depth=1, heads=2, num_classes=5)
    with pytest.raises(UserError, match=r"model.time_scale=1.0: expected -0.001 in this layout"):
        sit.LAYOUT.write(DiT(config).state_dict(), config, (4, 1, 8, 8))
