"""The interface of a layout: names and shapes of another project's weights, and those of a network here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from models.denoisers.dit import DiTConfig

Shape = tuple[int, int, int, int]  # (C, T, H, W) of latents
Tensors = Mapping[str, Tensor]


class Read(NamedTuple):
    """A network read from a layout.  state: its weights, in fp32.  shape: of its latents."""

    config: DiTConfig
    state: dict[str, Tensor]
    shape: Shape


class Layout(NamedTuple):
    """A layout of weights.

    objective: what networks in it were trained for, as the section `objective`.
    read: from their weights by name and the number of heads (0: known from the size), UserError for others.
    write: to their weights by name; UserError for a network that has no such form.
    """

    name: str
    objective: Mapping[str, Any]
    read: Callable[[Tensors, int], Read]
    write: Callable[[Tensors, DiTConfig, Shape], dict[str, Tensor]]
