"""The layout of the published class-conditional image DiT (arXiv:2212.09748), such as `DiT-XL-2-256x256.pt`.

The network is this project's own with sin-cos positions, so that only names differ, the patch embedding is
stored as a convolution, and the fixed positions are stored too.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from core.errors import UserError
from core.progress import counted
from models.denoisers.dit import DiTConfig
from models.layers.embeddings import sincos_positions
from tools.convert.layouts.layout import Layout, Read, Shape, Tensors

POSITIONS = "pos_embed"
PATCH = "x_embedder.proj.weight"
OURS_TO_THEIRS = (
    ("patches.linear", "x_embedder.proj"),
    ("time.up", "t_embedder.mlp.0"),
    ("time.down", "t_embedder.mlp.2"),
    ("label.table", "y_embedder.embedding_table"),
    ("final_modulation.linear", "final_layer.adaLN_modulation.1"),
    ("final", "final_layer.linear"),
)
IN_BLOCKS = (
    ("modulation.linear", "adaLN_modulation.1"),
    ("attention.qkv", "attn.qkv"),
    ("attention.out", "attn.proj"),
    ("mlp.up", "mlp.fc1"),
    ("mlp.down", "mlp.fc2"),
)
UNKNOWN_THERE = (
    "patch",
    "positions",
    "qk_norm",
    "text_width",
    "frame_condition",
    "frame_levels",
    "two_times",
    "time_scale",
    "time_offset",
    "time_frequency_shift",
)
ROUNDING = 1e-4  # by which stored positions may differ: they are of size 1, and were computed elsewhere


def names(depth: int) -> Iterator[tuple[str, str]]:
    """Yield (name here, name there) of every trained weight."""
    pairs = list(OURS_TO_THEIRS)
    pairs += [(f"blocks.{n}.{a}", f"blocks.{n}.{b}") for n in range(depth) for a, b in IN_BLOCKS]
    for ours, theirs in pairs:
        yield f"{ours}.weight", f"{theirs}.weight"
        if ours != "label.table":
            yield f"{ours}.bias", f"{theirs}.bias"


def read(tensors: Tensors, heads: int) -> Read:
    """Return the network of these weights."""
    if PATCH not in tensors or tensors[PATCH].ndim != 4:
        raise UserError("source", f"without {PATCH}", "weights of a DiT, whose patch embedding has that name")
    width, channels, patch, _ = tensors[PATCH].shape
    found = re.findall(r"^blocks\.(\d+)\.", "\n".join(tensors), re.MULTILINE)
    depth = 1 + max(map(int, found), default=-1)
    wanted = dict(names(depth))
    _require_same_names(tensors, set(wanted.values()))
    grid = math.isqrt(tensors[POSITIONS].shape[1])
    hidden, outputs = (
        tensors["blocks.0.mlp.fc1.weight"].shape[0],
        tensors["final_layer.linear.weight"].shape[0],
    )
    config = DiTConfig(
        input_channels=channels,
        patch=(1, patch, patch),
        width=width,
        depth=depth,
        heads=heads or _published_heads(depth, width),
        mlp_ratio=hidden / width,
        num_classes=tensors["y_embedder.embedding_table.weight"].shape[0] - 1,
        learned_sigma=outputs == 2 * channels * patch**2,
    )
    ours = sincos_positions((1, grid, grid), width, torch.device("cpu"))
    stored = tensors[POSITIONS][0].float()
    if stored.shape != ours.shape or not torch.allclose(stored, ours, atol=ROUNDING):
        raise UserError("source", POSITIONS, "the sin-cos positions of a square grid; these are others")
    state = {mine: _plain(tensors[theirs]) for mine, theirs in wanted.items()}
    return Read(config, state, (channels, 1, grid * patch, grid * patch))


def write(state: Tensors, config: DiTConfig, shape: Shape) -> dict[str, Tensor]:
    """Return the weights by their names there."""
    _, frames, rows, columns = shape
    plain = DiTConfig(
        input_channels=config.input_channels,
        patch=(1, config.patch[1], config.patch[1]),
        width=config.width,
        depth=config.depth,
        heads=config.heads,
        mlp_ratio=config.mlp_ratio,
        num_classes=config.num_classes,
        learned_sigma=config.learned_sigma,
    )
    require_fields(config, {field: getattr(plain, field) for field in UNKNOWN_THERE})
    if frames != 1 or rows != columns:
        raise UserError("source", f"latents of {frames} x {rows} x {columns}", "square images in this layout")
    patch, grid = config.patch[1], config.grid((1, rows, columns))
    result = {theirs: state[mine].clone() for mine, theirs in names(config.depth)}
    result[PATCH] = result[PATCH].reshape(config.width, config.input_channels, patch, patch)
    result[POSITIONS] = sincos_positions(grid, config.width, torch.device("cpu"))[None].clone()
    return result


def require_fields(config: DiTConfig, expected: Mapping[str, Any]) -> None:
    """Raise UserError where a field of a network is not the one that a layout stands for."""
    for field, value in expected.items():
        if (has := getattr(config, field)) != value:
            raise UserError(f"model.{field}", has, f"{value} in this layout")


def _plain(tensor: Tensor) -> Tensor:
    """Return a weight in fp32; that of a convolution over whole patches as the matrix that it is."""
    return (tensor.flatten(1) if tensor.ndim == 4 else tensor).float().contiguous()


def _require_same_names(tensors: Tensors, wanted: set[str]) -> None:
    wanted = wanted | {POSITIONS}
    if missing := sorted(wanted - tensors.keys()):
        raise UserError("source", f"without {counted(len(missing), 'weight')}", f"a DiT, with {missing[0]}")
    if more := sorted(tensors.keys() - wanted):
        raise UserError(
            "source", f"with {counted(len(more), 'weight')} more", f"a DiT, which has no {more[0]}"
        )


def _published_heads(depth: int, width: int) -> int:
    for preset in DiTConfig.presets.values():
        if (preset.depth, preset.width) == (depth, width):
            return preset.heads
    raise UserError("heads", 0, f"the number of heads: {depth} blocks of width {width} are no published size")


OBJECTIVE = {"path": "ddpm_linear", "prediction": "noise", "learned_sigma": True, "label_dropout": 0.1}
LAYOUT = Layout("dit", OBJECTIVE, read, write)
