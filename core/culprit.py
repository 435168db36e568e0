"""After a step with a non-finite loss or gradient: which sample, at which noise level, in which module."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from core import distributed
from core.batch import Batch
from core.borrow import borrowed
from core.engine import Engine
from core.losses import Losses

DECILES = 10
MAX_SAMPLES = 32  # of one rank in the record


def find_culprits(
    engine: Engine, loss: Callable[[Batch], Losses], micro_batches: list[Batch]
) -> list[dict[str, Any]]:
    """Repeat the step's forward passes with hooks that look for the first non-finite output (collective).

    Returns one entry for each rank with a non-finite loss: rank, module and samples (id and decile of the
    noise level). Where every loss is finite, the backward pass made the trouble: then all ranks are listed,
    with module None and all samples.
    """
    bad: list[dict[str, Any]] = []
    everything: list[dict[str, Any]] = []
    module: str | None = None
    with borrowed(engine, training=True), torch.compiler.set_stance("force_eager"):
        for batch in micro_batches:
            found: list[str] = []
            handles = [
                part.register_forward_hook(partial(_look, name or "network", found))
                for name, part in engine.module.named_modules()
            ]
            losses = loss(batch)
            for handle in handles:
                handle.remove()
            is_bad = ~losses.loss.isfinite() & (batch.weight > 0)
            everything += _describe(batch, losses, batch.weight > 0)
            bad += _describe(batch, losses, is_bad)
            if is_bad.any() and module is None:
                module = found[0] if found else "loss"
    mine = {"rank": engine.world.rank, "module": module, "samples": bad[:MAX_SAMPLES]}
    mine["all"] = everything[:MAX_SAMPLES]
    ranks = distributed.gather_objects(mine)
    guilty = [rank for rank in ranks if rank["samples"]]
    if guilty:
        return [{k: v for k, v in rank.items() if k != "all"} for rank in guilty]
    return [{"rank": rank["rank"], "module": None, "samples": rank["all"]} for rank in ranks]


def _look(name: str, found: list[str], module: Any, inputs: Any, output: Any) -> None:
    """A forward hook; children end before their parents, so the first entry is the innermost module."""
    if not found and not _finite(inputs):
        found.append(f"input of {name}")
    elif not found and not _finite(output):
        found.append(name)


def _finite(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(value.isfinite().all())
    return all(map(_finite, value)) if isinstance(value, (tuple, list)) else True


def _describe(batch: Batch, losses: Losses, chosen: Tensor) -> list[dict[str, Any]]:
    rows = chosen.nonzero().flatten().tolist()
    deciles: list[int | None] = [None] * len(batch)
    if losses.time is not None:
        deciles = (losses.time * DECILES).long().clamp(0, DECILES - 1).tolist()
    return [{"id": int(batch.id[row]), "decile": deciles[row]} for row in rows]
