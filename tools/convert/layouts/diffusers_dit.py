"""The layout of diffusers' DiTPipeline: a transformer each of whose blocks embeds time and class.

The network is the published DiT but for the frequencies of the time (`time_frequency_shift: 1`). The pipeline
takes square images of 1,000 classes, and its blocks have an MLP of four times the width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from core.errors import UserError
from models.denoisers.dit import DiTConfig
from tools.convert.layouts.dit import UNKNOWN_THERE, require_fields
from tools.convert.layouts.layout import Read, Shape, Tensors

CLASSES = 1000  # the pipeline's number of the label for no class
PREDICTIONS = {"noise": "epsilon", "v": "v_prediction", "data": "sample"}
SCHEDULES = {"ddpm_linear": "linear", "ddpm_scaled_linear": "scaled_linear"}
SHARED = (
    ("time.up", "timestep_embedder.linear_1"),
    ("time.down", "timestep_embedder.linear_2"),
    ("label.table", "class_embedder.embedding_table"),
)
OUTER = (
    ("patches.linear", "pos_embed.proj"),
    ("final_modulation.linear", "proj_out_1"),
    ("final", "proj_out_2"),
)
IN_BLOCKS = (
    ("modulation.linear", "norm1.linear"),
    ("attention.out", "attn1.to_out.0"),
    ("mlp.up", "ff.net.0.proj"),
    ("mlp.down", "ff.net.2"),
)
PARTS = ("weight", "bias")


def names(depth: int) -> Iterator[tuple[str, list[str]]]:
    """Yield the name of every trained weight here, and those of the tensors there that hold it.

    Three names of one weight are those of its thirds; `depth` names stand for as many equal copies.
    """
    for part in PARTS:
        for ours, theirs in OUTER:
            yield f"{ours}.{part}", [f"{theirs}.{part}"]
        for ours, theirs in SHARED:
            if (ours, part) != ("label.table", "bias"):
                copies = [f"transformer_blocks.{n}.norm1.emb.{theirs}.{part}" for n in range(depth)]
                yield f"{ours}.{part}", copies
        for n in range(depth):
            block = f"transformer_blocks.{n}"
            for ours, theirs in IN_BLOCKS:
                yield f"blocks.{n}.{ours}.{part}", [f"{block}.{theirs}.{part}"]
            yield f"blocks.{n}.attention.qkv.{part}", [f"{block}.attn1.to_{x}.{part}" for x in "qkv"]


def network_of(config: Mapping[str, Any]) -> DiTConfig:
    """Return the network of a transformer's config; UserError for one that has no such form here."""
    channels, heads = config["in_channels"], config["num_attention_heads"]
    outputs = config.get("out_channels") or channels
    expected = {
        "norm_type": ("ada_norm_zero", "ada_norm_zero"),
        "activation_fn": ("gelu-approximate", "gelu-approximate"),
        "norm_elementwise_affine": (False, False),
        "out_channels": (outputs, outputs if outputs in (channels, 2 * channels) else f"{channels} or twice"),
    }
    for name, (default, wanted) in expected.items():
        if (has := config.get(name, default)) != wanted:
            raise UserError("source", f"a transformer of {name}={has}", f"{name}={wanted}")
    return DiTConfig(
        input_channels=channels,
        patch=(1, config["patch_size"], config["patch_size"]),
        width=heads * config["attention_head_dim"],
        depth=config["num_layers"],
        heads=heads,
        num_classes=config["num_embeds_ada_norm"],
        learned_sigma=outputs == 2 * channels,
        time_frequency_shift=1,
    )


def read(tensors: Tensors, network: DiTConfig, side: int) -> Read:
    """Return the weights of a network.  side: of its latents."""
    wanted = dict(names(network.depth))
    theirs = {name for group in wanted.values() for name in group}
    for missing in sorted(theirs - tensors.keys()):
        raise UserError("source", f"without {missing}", f"a DiT of {network.depth} blocks")
    for more in sorted(tensors.keys() - theirs):
        raise UserError("source", f"with {more}", "a DiT, which has no such weight")
    state = {}
    for ours, group in wanted.items():
        parts = [tensors[name].flatten(1) if tensors[name].ndim == 4 else tensors[name] for name in group]
        if ours.startswith(tuple(name for name, _ in SHARED)):
            _require_equal(parts, group)
            parts = parts[:1]
        state[ours] = torch.cat(parts).float().contiguous()
    return Read(network, state, (network.input_channels, 1, side, side))


def require_form(config: DiTConfig, shape: Shape) -> None:
    """Refuse a network, or latents of a shape, that the pipeline's class cannot hold."""
    _, frames, rows, columns = shape
    plain = DiTConfig(width=config.width, heads=config.heads)
    expected = {field: getattr(plain, field) for field in UNKNOWN_THERE}
    patch = config.patch[1]
    own = {"patch": (1, patch, patch), "mlp_ratio": 4.0, "num_classes": CLASSES, "time_frequency_shift": 1}
    require_fields(config, {**expected, **own})
    if frames != 1 or rows != columns:
        raise UserError("source", f"latents of {frames} x {rows} x {columns}", "square images in this layout")


def write(state: Tensors, config: DiTConfig, shape: Shape) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the weights by their names there, and the transformer's config."""
    require_form(config, shape)
    rows, patch = shape[2], config.patch[1]
    result: dict[str, Tensor] = {}
    for ours, group in names(config.depth):
        if ours.startswith(tuple(name for name, _ in SHARED)):
            result |= {name: state[ours].clone() for name in group}
        else:
            parts = state[ours].chunk(len(group))
            result |= {name: part.clone() for name, part in zip(group, parts, strict=True)}
    kernel = f"{OUTER[0][1]}.weight"
    result[kernel] = result[kernel].reshape(config.width, config.input_channels, patch, patch)
    record = {
        "_class_name": "DiTTransformer2DModel",
        "num_attention_heads": config.heads,
        "attention_head_dim": config.width // config.heads,
        "in_channels": config.input_channels,
        "out_channels": config.output_channels,
        "num_layers": config.depth,
        "sample_size": rows,
        "patch_size": patch,
        "num_embeds_ada_norm": config.num_classes,
        "norm_eps": 1e-6,
    }
    return result, record


def _require_equal(parts: list[Tensor], group: list[str]) -> None:
    """Raise UserError unless all blocks embed time and class alike, as they were trained to."""
    for part, name in zip(parts, group, strict=True):
        if not torch.equal(part, parts[0]):
            raise UserError("source", f"with another {name}", f"a DiT, of which it equals {group[0]}")
