"""Conditions that are taken from training samples, so that guidance has what it compares with."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

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
