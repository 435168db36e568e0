"""What the samples of steps came to: kept on the device while steps run, added up when rows are written.

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

    All micro-batches have times, or none; all have the same extras.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.parts: list[tuple[Losses, Tensor]] = []

    def add(self, losses: Losses, weight: Tensor) -> None:
        """Keep a micro-batch; samples of weight 0 count for nothing, whatever their loss."""
        extras = {name: values.detach() for name, values in losses.extras.items()}
        self.parts.append((Losses(losses.loss.detach(), losses.time, extras), weight))

    @property
    def extras(self) -> list[str]:
        """The names of the extras, in the vector's order."""
        return list(self.parts[0][0].extras) if self.parts else []

    def vector(self, waited_s: float) -> Tensor:
        """As of `vectors`."""
        return vectors([self], [waited_s])[0]


@torch.no_grad()
def vectors(steps: Sequence[StepSums], waited_s: Sequence[float]) -> list[Tensor]:
    """A float64 vector for each step, to be added up over ranks.

    Seconds waited for data; weighted loss per decile of time and of samples without a time; weight likewise;
    then the extras of that step.
    """
    parts = [(row, *part) for row, step in enumerate(steps) for part in step.parts]
    device, count = steps[0].device, len(steps)
    table = torch.zeros(2, count * COLUMNS, dtype=torch.float64, device=device)
    columns = [torch.tensor(waited_s, dtype=torch.float64, device=device)[:, None]]
    columns += table.view(2, count, COLUMNS)  # views, which are filled now
    if parts:
        sizes = torch.tensor([len(weight) for *_, weight in parts])
        row = torch.tensor([row for row, *_ in parts]).repeat_interleave(sizes).to(device)
        weight = torch.cat([weight for *_, weight in parts])
        loss = _counted(torch.cat([losses.loss for _, losses, _ in parts]), weight)
        place = row * COLUMNS + _column([losses.time for _, losses, _ in parts])
        table.index_add_(1, place, torch.stack([loss, weight.double()]))
        for name in parts[0][1].extras:
            values = _counted(torch.cat([losses.extras[name] for _, losses, _ in parts]), weight)
            columns.append(table.new_zeros(count).index_add_(0, row, values)[:, None])
    fixed = 1 + 2 * COLUMNS
    rows = torch.cat(columns, 1).unbind()
    return [row[: fixed + len(step.extras)] for row, step in zip(rows, steps, strict=True)]


def _column(times: list[Tensor | None]) -> Tensor | int:
    """Of every sample; all micro-batches have times, or none."""
    given = [time for time in times if time is not None]
    return (torch.cat(given) * DECILES).long().clamp_(0, DECILES - 1) if given else DECILES


def _counted(values: Tensor, weight: Tensor) -> Tensor:
    """values * weight in float64, 0 where the weight is 0 even if the value is not finite."""
    return torch.where(weight > 0, values.double() * weight, 0.0)
