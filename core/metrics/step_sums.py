"""Sums over the samples of steps: kept on the device while steps run, added up when rows are written.

A step only keeps its tensors. Adding them up takes some thirty operations on next to nothing, which cost the
same for one step as for all that wait for a row.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from core.losses import Losses

DECILES = 10
COLUMNS = DECILES + 1  # the last for samples without a time


class StepSums:
    """The losses of one step on one rank, micro-batch by micro-batch.

    parts: of the main network; all micro-batches have times, or none, and all the same extras.
    others: of each other network, by the prefix of its columns; its loss is one of the extras there.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.parts: list[tuple[Losses, Tensor]] = []
        self.others: dict[str, list[tuple[Losses, Tensor]]] = {}

    def add(self, losses: Losses, weight: Tensor, network: str = "") -> None:
        """Keep a micro-batch; samples of weight 0 count for nothing, whatever their loss."""
        prefix = f"{network}_" if network else ""
        extras = {f"{prefix}{name}": values.detach() for name, values in losses.extras.items()}
        loss = losses.loss.detach()
        if network:
            extras = {f"{prefix}loss": loss, **extras}
        kept = self.others.setdefault(prefix, []) if network else self.parts
        kept.append((Losses(loss, losses.time, extras), weight))

    @property
    def extras(self) -> list[str]:
        """Return the names of the extras, in the vector's order."""
        return [name for parts in (self.parts, *self.others.values()) if parts for name in parts[0][0].extras]

    def counted(self) -> list[tuple[Losses, Tensor]]:
        """Return the parts that the step's loss and number of samples are taken from.

        Without an update of the main network those of the first other one, with no loss of the main one.
        """
        if self.parts or not self.others:
            return self.parts
        return [(Losses(torch.full_like(w, torch.nan)), w) for _, w in next(iter(self.others.values()))]

    def vector(self, waited_s: float) -> Tensor:
        """Return this step's vector, as described at `vectors`."""
        return vectors([self], [waited_s])[0]


@torch.no_grad()
def vectors(steps: Sequence[StepSums], waited_s: Sequence[float]) -> list[Tensor]:
    """Return a float64 vector for each step, to be added up over ranks.

    Seconds waited for data; weighted loss per decile of time and of samples without a time; weight likewise;
    then the extras of that step.
    """
    device, count = steps[0].device, len(steps)
    table = torch.zeros(2, count * COLUMNS, dtype=torch.float64, device=device)
    columns = [torch.tensor(waited_s, dtype=torch.float64, device=device)[:, None]]
    columns += table.view(2, count, COLUMNS)  # views, which are filled now
    counted = _Gathered([step.counted() for step in steps], device)
    if counted.parts:
        loss = _counted(torch.cat([losses.loss for losses, _ in counted.parts]), counted.weight)
        place = counted.row * COLUMNS + _column([losses for losses, _ in counted.parts])
        table.index_add_(1, place, torch.stack([loss, counted.weight.double()]))
    has_main = all(step.parts or not step.others for step in steps)
    groups = [counted if has_main else _Gathered([step.parts for step in steps], device)]
    for prefix in dict.fromkeys(prefix for step in steps for prefix in step.others):
        groups.append(_Gathered([step.others.get(prefix, []) for step in steps], device))
    names: list[str] = []
    for group in groups:
        for name in group.parts[0][0].extras if group.parts else ():
            values = _counted(torch.cat([losses.extras[name] for losses, _ in group.parts]), group.weight)
            columns.append(table.new_zeros(count).index_add_(0, group.row, values)[:, None])
            names.append(name)
    rows = torch.cat(columns, 1).unbind()
    return [_chosen(row, names, step.extras) for row, step in zip(rows, steps, strict=True)]


class _Gathered:
    """Parts of several steps in one list. row, weight: (samples,), the step and the weight of each sample."""

    def __init__(self, steps: Sequence[list[tuple[Losses, Tensor]]], device: torch.device) -> None:
        self.parts = [part for parts in steps for part in parts]
        if self.parts:
            number = torch.tensor([row for row, parts in enumerate(steps) for _ in parts])
            sizes = torch.tensor([len(weight) for _, weight in self.parts])
            self.row = number.repeat_interleave(sizes).to(device)
            self.weight = torch.cat([weight for _, weight in self.parts])


def _chosen(row: Tensor, names: list[str], wanted: list[str]) -> Tensor:
    """Return the columns that every step has, and of those named `names` the wanted ones."""
    fixed = 1 + 2 * COLUMNS
    if names[: len(wanted)] == wanted:
        return row[: fixed + len(wanted)]
    places = [fixed + names.index(name) for name in wanted]
    return torch.cat([row[:fixed], *(row[place : place + 1] for place in places)])


def _column(parts: list[Losses]) -> Tensor | int:
    """Return the column of every sample; those without a time come last."""
    times = [losses.time for losses in parts if losses.time is not None]
    if not times:
        return DECILES
    if len(times) == len(parts):
        return (torch.cat(times) * DECILES).long().clamp_(0, DECILES - 1)
    return torch.cat([_column_of_one(losses) for losses in parts])


def _column_of_one(losses: Losses) -> Tensor:
    column = _column([losses])
    return column if isinstance(column, Tensor) else torch.full_like(losses.loss, column, dtype=torch.int64)


def _counted(values: Tensor, weight: Tensor) -> Tensor:
    """Return values * weight in float64, 0 where the weight is 0 even if the value is not finite."""
    return torch.where(weight > 0, values.double() * weight, 0.0)
