"""A density of training times over even parts of [0, 1], as a file holds it, or fitted to losses."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from core.errors import UserError
from core.reading.number_lines import read_numbers

MOST_PARTS = 10_000
FIELD = "density"


def read_density(path: str) -> tuple[float, ...]:
    """Read the densities of even parts of [0, 1], one a line, in any scale; UserError for what is none."""
    words, accepted = ("density", "densities"), "a number of at least 0"
    found = read_numbers(path, FIELD, *words, lambda n: 0 <= n < math.inf, accepted, MOST_PARTS)
    if not sum(found) > 0:
        raise UserError(FIELD, path, "densities of which one is above 0")
    return found


def times_by_density(density: Sequence[float], u: Tensor) -> Tensor:
    """Return the times at which the share of `density` below them is u, in the dtype of u."""
    parts = torch.tensor(density, dtype=torch.float64, device=u.device)
    shares = torch.cat([parts.new_zeros(1), parts.cumsum(0) / parts.sum()])
    part = torch.searchsorted(shares[1:-1].contiguous(), u.double(), right=True)
    within = (u.double() - shares[part]) / (shares[part + 1] - shares[part])
    return ((part + within.clamp(0, 1)) / len(parts)).to(u.dtype)


def fitted(losses: Sequence[Sequence[float | None]]) -> tuple[float, ...]:
    """Return the mean loss of each part over rows of losses by part, None where no sample fell.

    The density in proportion to a loss's root mean square gives its estimate the least variance (2102.09672,
    section 3.3); losses of one part spread alike around their mean in every part, which stands for it here.
    UserError where a part has no loss.
    """
    means = []
    for number, column in enumerate(zip(*losses, strict=True), 1):
        known = [value for value in column if value is not None]
        if not known or not sum(known) > 0:
            raise UserError(f"expected losses above 0 in every part of time; part {number} has none")
        means.append(sum(known) / len(known))
    if not means:
        raise UserError("expected a run that has recorded losses by decile of time")
    return tuple(means)
