"""The layout of the published SiT (arXiv:2401.08740), such as `SiT-XL-2-256x256.pt`.

The weights have the names of a DiT. SiT's time runs from 0 for noise to 1 for data, and it predicts the
velocity in that direction, data minus noise; here time is 0 for data and the flow is noise minus data. So
the output's sign is turned, and the network keeps its clock (`model.time_scale`, `model.time_offset`). Its
output has a second half, which SiT itself discards; it is left out here, and zero where weights are
written.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from einops import rearrange
from torch import Tensor

from models.denoisers.dit import DiTConfig
from tools.convert.layouts import dit
from tools.convert.layouts.layout import Layout, Read, Shape, Tensors

SCALE, OFFSET = -0.001, 1.0  # of the network's time, which is up to 1000 here
OUTPUT = ("final.weight", "final.bias")


def read(tensors: Tensors, heads: int) -> Read:
    """Return the network of these weights."""
    found = dit.read(tensors, heads)
    config = replace(found.config, learned_sigma=False, time_scale=SCALE, time_offset=OFFSET)
    halves = 2 if found.config.learned_sigma else 1
    state = {**found.state, **{name: -_first(found.state[name], halves, config) for name in OUTPUT}}
    return Read(config, state, found.shape)


def write(state: Tensors, config: DiTConfig, shape: Shape) -> dict[str, Tensor]:
    """Return the weights by their names there."""
    dit.require_fields(config, {"time_scale": SCALE, "time_offset": OFFSET, "learned_sigma": False})
    theirs = replace(config, learned_sigma=True, time_scale=1.0, time_offset=0.0)
    outputs = {name: _with_zeros(-state[name], config) for name in OUTPUT}
    return dit.write({**state, **outputs}, theirs, shape)


def _first(weight: Tensor, halves: int, config: DiTConfig) -> Tensor:
    """Return the rows of the first half of the channels; the channel is the fastest index of a row."""
    pattern = "(patch half c) ... -> half (patch c) ..."
    return rearrange(weight, pattern, half=halves, c=config.input_channels)[0].contiguous()


def _with_zeros(weight: Tensor, config: DiTConfig) -> Tensor:
    both = torch.stack([weight, torch.zeros_like(weight)])
    pattern = "half (patch c) ... -> (patch half c) ..."
    return rearrange(both, pattern, c=config.input_channels).contiguous()


OBJECTIVE = {"path": "rectified_flow", "prediction": "flow", "label_dropout": 0.1}
LAYOUT = Layout("sit", OBJECTIVE, read, write)
