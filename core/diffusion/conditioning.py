"""Operations on conditions: drop parts of them, and stack several into one batch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import fields, replace

import torch
from torch import Tensor
from torch.nn.functional import pad

from core.batch import Condition


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


def without(condition: Condition, dropped: Collection[str], negative: Condition | None = None) -> Condition:
    """Return a condition without some parts: label -1, text of length 0, no frame given."""
    other = negative or Condition()
    if "label" in dropped and condition.label is not None:
        label = torch.full_like(condition.label, -1) if other.label is None else other.label
        condition = replace(condition, label=label)
    if "text" in dropped and condition.text is not None:
        text, length = condition.text, text_lengths(condition) * 0
        if other.text is not None:
            text, length = other.text, text_lengths(other)
        condition = replace(condition, text=text, text_length=length)
    if "frames" in dropped and condition.frame_mask is not None:
        mask, latents = condition.frame_mask, condition.frame_latents
        latents = None if latents is None else torch.zeros_like(latents)
        condition = replace(condition, frame_mask=torch.zeros_like(mask), frame_latents=latents)
    return condition


def text_lengths(condition: Condition) -> Tensor:
    """Return the valid tokens (B,) of a condition with text; all of them where it does not say."""
    assert condition.text is not None
    if condition.text_length is not None:
        return condition.text_length
    size = condition.text.shape[:2]
    return torch.full((size[0],), size[1], dtype=torch.int64, device=condition.text.device)


def stacked(conditions: Sequence[Condition]) -> Condition:
    """Return the samples of several conditions, which have the same parts, one after the other."""
    if len(conditions) == 1:
        return conditions[0]
    if conditions[0].text is not None and any(each.text_length is not None for each in conditions):
        longest = max(each.text.shape[1] for each in conditions if each.text is not None)
        conditions = [_padded(each, longest) for each in conditions]
    parts = {f.name: [getattr(each, f.name) for each in conditions] for f in fields(Condition)}
    return Condition(**{name: None if p[0] is None else torch.cat(p) for name, p in parts.items()})


def _padded(condition: Condition, length: int) -> Condition:
    """Return a condition whose text has so many tokens, with its lengths."""
    assert condition.text is not None
    text = pad(condition.text, (0, 0, 0, length - condition.text.shape[1]))
    return replace(condition, text=text, text_length=text_lengths(condition))
