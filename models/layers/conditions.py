"""The parts of a condition as tensors that are always present, so that a network has one graph for all."""

from __future__ import annotations

import torch
from torch import Tensor

from core.batch import Condition


def labels(x: Tensor, condition: Condition) -> Tensor:
    """Return the (B,) int64 class of every sample, -1 where there is none."""
    if condition.label is not None:
        return condition.label
    return torch.full((x.shape[0],), -1, dtype=torch.int64, device=x.device)


def frame_channels(x: Tensor, condition: Condition) -> Tensor:
    """Return (B, 1 + C, T, H, W): the frame mask and the given frames' latents, zero where none is given."""
    mask, latents = condition.frame_mask, condition.frame_latents
    if mask is None or latents is None:
        return x.new_zeros(x.shape[0], x.shape[1] + 1, *x.shape[2:])
    mask = mask[:, None, :, None, None].to(latents.dtype)
    return torch.cat([mask.expand(-1, 1, -1, *x.shape[3:]), mask * latents], dim=1)


def text_tokens(x: Tensor, condition: Condition, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return text tokens (B, L, width) and valid counts (B,); no text is one empty token of length 0."""
    text, lengths = condition.text, condition.text_length
    if text is None:
        return x.new_zeros(x.shape[0], 1, width, dtype=dtype), x.new_zeros(x.shape[0], dtype=torch.int64)
    if lengths is None:
        lengths = torch.full((x.shape[0],), text.shape[1], dtype=torch.int64, device=x.device)
    return text.to(dtype), lengths
