"""The average of any length, after training: a sum of the power averages a run has kept (arXiv:2312.02696).

What is summed are the averages in one checkpoint, in fp32, and the small copies in `ema/` from before it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from core.averages import power_ema
from core.averages.power_ema import Snapshot
from core.checkpoint import format
from core.checkpoint.reader import CheckpointReader
from core.checkpoint.store import CheckpointStore
from core.errors import UserError
from core.run.folder import AVERAGES


@dataclass(frozen=True)
class Reconstruction:
    """weights: trainable ones, whole, fp32.  snapshots: how many were summed.

    profile_error: distance of the sum's profile from the wanted one, relative to it (0 is exact).
    """

    weights: dict[str, Tensor]
    snapshots: int
    profile_error: float


def reconstruct(run: Path, checkpoint: Path, width: float) -> Reconstruction:
    """The average of relative `width` at the time of `checkpoint`, one of the run's.

    UserError where the run kept no power averages or the width is impossible; WorkError on damage.
    """
    if not 0 < width < power_ema.WIDEST:
        raise UserError("ema_sigma", width, f"above 0 and below {power_ema.WIDEST:.3f}")
    sources = _sources(run, checkpoint, width)
    snapshots = list(sources)
    target = Snapshot(power_ema.gamma_of_width(width), max(snapshot.step for snapshot in snapshots))
    factors = power_ema.reconstruction_weights(snapshots, target)
    shapes = CheckpointReader(checkpoint).shapes
    weights = {}
    for name, shape in shapes.items():
        total, part = torch.zeros(math.prod(shape)), torch.empty(math.prod(shape))
        for factor, (reader, kind) in zip(factors, sources.values(), strict=True):
            reader.read(kind, name, 0, part.numel(), part)
            total.add_(part, alpha=float(factor))
        weights[name] = total.view(shape)
    error = power_ema.profile_error(snapshots, target, factors)
    return Reconstruction(weights, len(snapshots), error)


def _sources(run: Path, checkpoint: Path, width: float) -> dict[Snapshot, tuple[CheckpointReader, str]]:
    """Where each average lies: the checkpoint's own, and all copies from before it."""
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
