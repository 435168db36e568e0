"""Reconstruct an average of any length after training, as a sum of stored power averages (arXiv:2312.02696).

The sum is over the averages in one checkpoint, in fp32, and the small copies in `ema/` from before it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from core.averages import power_ema
from core.averages.power_ema import Snapshot
from core.checkpoint import format
from core.checkpoint.reader import CheckpointReader
from core.checkpoint.store import CheckpointStore
from core.checkpoint.tensor_file import Entry
from core.errors import UserError
from core.run.folder import AVERAGES


@dataclass(frozen=True)
class Reconstruction:
    """entries: trainable weights, whole, fp32, each of which is summed when it is read.

    snapshots: how many are summed.

    profile_error: distance of the sum's profile from the wanted one, relative to it (0 is exact).
    """

    entries: list[Entry]
    snapshots: int
    profile_error: float

    @property
    def weights(self) -> dict[str, Tensor]:
        """The reconstructed weights by name."""
        return {entry.name: entry.read() for entry in self.entries}


def reconstruct(run: Path, checkpoint: Path, width: float) -> Reconstruction:
    """Return the average of relative `width` at the time of `checkpoint`, one of the run's.

    UserError where the run kept no power averages or the width is impossible; WorkError on damage.
    """
    if not 0 < width < power_ema.WIDEST:
        raise UserError("ema_sigma", width, f"above 0 and below {power_ema.WIDEST:.3f}")
    sources = _sources(run, checkpoint, width)
    snapshots = list(sources)
    target = Snapshot(power_ema.gamma_of_width(width), max(snapshot.step for snapshot in snapshots))
    factors = power_ema.reconstruction_weights(snapshots, target)
    shapes = CheckpointReader(checkpoint).shapes

    def summed(name: str) -> Tensor:
        numbers = math.prod(shapes[name])
        total, part = torch.zeros(numbers), torch.empty(numbers)
        for factor, (reader, kind) in zip(factors, sources.values(), strict=True):
            reader.read(kind, name, 0, numbers, part)
            total.add_(part, alpha=float(factor))
        return total.view(shapes[name])

    entries = [Entry(name, shape, torch.float32, partial(summed, name)) for name, shape in shapes.items()]
    return Reconstruction(entries, len(snapshots), power_ema.profile_error(snapshots, target, factors))


def _sources(run: Path, checkpoint: Path, width: float) -> dict[Snapshot, tuple[CheckpointReader, str]]:
    """Return where each average is stored: in the checkpoint itself, and in all copies from before it."""
    end = CheckpointReader(checkpoint)
    end.verify()
    state = end.state()
    if not state.get("ema_widths") or not state["ema_updates"]:
        expected = f"a run with ema.power_widths, e.g. [0.05, 0.1]; {checkpoint} holds no such average"
        raise UserError("ema_sigma", width, expected)
    # One copy of a step, the newest attempt's: an older one may hold updates that a rollback took back.
    entries = reversed(CheckpointStore(run / AVERAGES).complete())  # newest last, so that it stays
    copies = {e.step: CheckpointReader(e.path) for e in entries if e.step <= state["step"]}
    sources: dict[Snapshot, tuple[CheckpointReader, str]] = {}
    for reader in (end, *copies.values()):
        if reader is not end:
            reader.verify()
        seen = reader.state()
        for name, kept in seen["ema_widths"].items():
            if seen["ema_updates"] and format.ema_kind(name) in reader.kinds:
                snapshot = Snapshot(power_ema.gamma_of_width(kept), seen["ema_updates"])
                sources.setdefault(snapshot, (reader, format.ema_kind(name)))
    return sources
