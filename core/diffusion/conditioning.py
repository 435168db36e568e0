"""Conditions of training samples: which are taken from a sample, and which of its frames are given."""

from __future__ import annotations

from dataclasses import replace

import torch
from einops import rearrange
from torch import Tensor

from core.batch import Condition
from core.draws import Draws


def drop_condition(
    condition: Condition, dropped: Tensor, *, label: bool = True, text: bool = True
) -> Condition:
    """Take label and text from the samples where `dropped` (B,) is true: label -1, text of length 0."""
    if label and condition.label is not None:
        condition = replace(condition, label=condition.label.masked_fill(dropped, -1))
    length = condition.text_length
    if condition.text is not None and length is None:
        length = torch.full_like(dropped, condition.text.shape[1], dtype=torch.int64)
    if text and length is not None:
        condition = replace(condition, text_length=length.masked_fill(dropped, 0))
    return condition


def give_first_frames(condition: Condition, x0: Tensor, draws: Draws, share: float) -> Condition:
    """Give `share` of the clips their first 1 to T-1 latent frames (uniformly); the rest get none."""
    frames = x0.shape[2]
    given, count = draws.uniform("given_frames", (2,)).unbind(1)
    known = torch.where(given < share, 1 + torch.floor(count * (frames - 1)), 0).clamp(max=frames - 1)
    mask = (torch.arange(frames, device=x0.device) < rearrange(known, "b -> b 1")).float()
    return replace(condition, frame_mask=mask, frame_latents=x0 * rearrange(mask, "b t -> b 1 t 1 1"))
