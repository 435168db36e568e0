"""Compare a network on shares of the tokens with that of one rank: output and every gradient."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from core.batch import Condition
from core.distributed import ranks
from core.distributed.sequence import SequenceGroup
from core.engine.activation_checkpointing import checkpoint_blocks
from core.engine.config import EngineConfig
from models.denoisers.dit import DiT, DiTConfig

Shape = tuple[int, int, int]
TEXT, IMAGE, CLIP = 6, (1, 6, 6), (3, 6, 6)  # 9 and 27 tokens: no group of ranks has equal shares
MODES = ("none", "selective", "every_k", "full")


def cases(size: int) -> dict[str, tuple[Shape, dict[str, Any]]]:
    """Map names to input (T, H, W) and network fields; a ring where `size` ranks cannot share heads."""
    return {
        "classes": (IMAGE, {}),
        "one token": ((1, 2, 2), {}),
        "text": (CLIP, {"text_width": TEXT, "num_classes": 0}),
        "rotary": (CLIP, {"positions": "rotary", "qk_norm": True, "text_width": TEXT}),
        "frames": (CLIP, {"frame_condition": True, "learned_sigma": True}),
        "levels of frames": (CLIP, {"frame_levels": True}),
        "levels of tubes": ((4, 6, 2), {"patch": (2, 2, 1), "frame_levels": True, "positions": "rotary"}),
        "tubes": ((4, 6, 2), {"patch": (2, 2, 1), "positions": "rotary"}),
        "ring": (CLIP, {"heads": size + 1, "width": 8 * (size + 1), "text_width": TEXT}),
        "ring, one token": ((1, 2, 2), {"heads": size + 1, "width": 8 * (size + 1), "positions": "rotary"}),
    }


def gradients(
    fields: dict[str, Any], shape: Shape, sequence: SequenceGroup | None, mode: Any = "none"
) -> dict[str, Tensor]:
    """Return the gradient of every weight, none of them zero, and the output as "", of one fixed loss.

    The loss is also of the first block's tokens, which the network shows.
    """
    torch.manual_seed(0)
    network = DiT(DiTConfig(**{"depth": 2, "num_classes": 3, **fields}), sequence)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    checkpoint_blocks(network.blocks, EngineConfig(activation_checkpointing=mode))
    x, latents = torch.randn(2, 3, 4, *shape)
    label = torch.tensor([0, -1, 2])
    condition = Condition(
        label=label if network.config.num_classes else None,
        text=torch.randn(3, 4, TEXT),
        text_length=torch.tensor([4, 0, 1]),
        frame_mask=torch.rand(3, shape[0]).round(),
        frame_latents=latents,
    )
    time = torch.tensor([1.0, 400.0, 999.0])
    if groups := network.config.frames_per_level and shape[0] // network.config.frames_per_level:
        time = time[:, None] - torch.arange(groups) * 0.3
    out, tokens = network(x, time, condition, hidden=0)
    ((out * torch.randn(out.shape)).sum() + (tokens * torch.randn(tokens.shape)).sum()).backward()
    found = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    return {"": out.detach(), **found}


def compare_networks(sequence: SequenceGroup) -> list[str]:
    """Return a line per case: its name, the largest relative difference, and where (collective: the group).

    Relative to the norm of the tensor, or to 1e-3 of the largest one: true zeros are only rounding here.
    """
    lines = []
    for name, (shape, fields) in cases(sequence.size).items():
        fields = {"heads": sequence.size, "width": 8 * sequence.size, **fields}
        truth = gradients(fields, shape, None)
        mine = gradients(fields, shape, sequence)
        found = {n: g if n == "" else ranks.sum_over_ranks(g) / sequence.size for n, g in mine.items()}
        assert found.keys() == truth.keys()
        least = 1e-3 * max(float(g.norm()) for n, g in truth.items() if n)
        errors = {n: float((found[n] - g).norm()) / max(float(g.norm()), least) for n, g in truth.items()}
        worst = max(errors, key=errors.__getitem__)
        lines.append(f"network={name} {worst or 'output'} {errors[worst]:.3e}")
        for mode in MODES[1:]:
            again = gradients(fields, shape, sequence, mode)
            same = all(torch.equal(again[n], g) for n, g in mine.items())
            lines.append(f"recompute={name} {mode} {same}")
    return lines
