"""Find the cause of a non-finite gradient: which samples, at which noise level, in which module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from core.batch import Batch
from core.distributed.outcomes import first_of_ranks
from core.engine.engine import Engine
from core.engine.restoring import dry_step, evaluating
from core.losses import Losses
from core.metrics.step_sums import DECILES

MAX_RANKS, MAX_SAMPLES = 8, 32  # the most ranks in the record, and the most samples of each

Loss = Callable[[Batch], Losses]


def find_nonfinite(engine: Engine, loss: Loss, micro_batches: Sequence[Batch]) -> list[dict[str, Any]]:
    """Repeat the step and look for the first value that is not finite (collective).

    First the forward passes. Where every loss of all ranks is finite, the backward passes too, with an eye on
    the gradient of every module's inputs, outputs and parameters.

    Returns one entry for each guilty rank: rank, module, pass ("forward" or "backward") and samples (id,
    decile of the noise level, and source where there are several). Where the repetition is finite throughout,
    ranks are listed with module and pass None and their samples. Of more than MAX_RANKS ranks the first are
    there, and in each entry `of_ranks`, how many there would be: a record does not grow with the world.
    """
    with torch.compiler.set_stance("force_eager"):
        with evaluating(engine, training=True):
            found = [_look_forward(engine, loss, batch) for batch in micro_batches]
            guilty = _entries(engine, found, "bad")
        if not guilty:
            gradients = Gradients(engine.module)
            with dry_step(engine, gradients.see):
                found = [_look_backward(engine, loss, batch, gradients) for batch in micro_batches]
            gradients.remove()
            guilty = _entries(engine, found, "bad")
    return guilty or _entries(engine, found, "all")


def _entries(engine: Engine, found: Sequence[dict[str, Any]], which: str) -> list[dict[str, Any]]:
    """Return the entries of guilty ranks with their `bad` samples, or of all with `all` (collective)."""
    first = next((one for one in found if one["module"]), {"module": None, "pass": None})
    samples = [sample for one in found for sample in one[which]][:MAX_SAMPLES]
    mine = {"rank": engine.world.rank, "module": first["module"], "pass": first["pass"], "samples": samples}
    entries, count = first_of_ranks([mine] if which == "all" or first["module"] else [], MAX_RANKS)
    return [one | {"of_ranks": count} for one in entries] if count > MAX_RANKS else entries


def _look_forward(engine: Engine, loss: Loss, batch: Batch) -> dict[str, Any]:
    found: list[str] = []
    handles = [
        part.register_forward_hook(partial(_look, name or "network", found))
        for name, part in engine.module.named_modules()
    ]
    losses = loss(batch)
    for handle in handles:
        handle.remove()
    is_bad = ~losses.loss.isfinite() & (batch.weight > 0)
    module = (found[0] if found else "loss") if is_bad.any() else None
    return {"module": module, "pass": "forward", **_samples(batch, losses, is_bad)}


def _look(name: str, found: list[str], module: Any, inputs: Any, output: Any) -> None:
    """Record a non-finite output (forward hook); children end first, so the first entry is the innermost."""
    if not found and not _finite(inputs):
        found.append(f"input of {name}")
    elif not found and not _finite(output):
        found.append(name)


def _look_backward(engine: Engine, loss: Loss, batch: Batch, gradients: Gradients) -> dict[str, Any]:
    gradients.begin()
    losses = loss(batch)
    engine.backward((torch.where(batch.weight > 0, losses.loss, 0.0) * batch.weight).mean())
    is_bad = gradients.rows(len(batch))
    if is_bad is None:
        is_bad = torch.full_like(batch.weight, gradients.module is not None, dtype=torch.bool)
    return {"module": gradients.module, "pass": "backward", **_samples(batch, losses, is_bad)}


class Gradients:
    """Watches forward and backward passes, one pair at a time, for the first gradient that is not finite.

    The gradient is attributed to the module whose backward gave it: the innermost whose input or parameter it
    belongs to. One that belongs to a module's output alone was made by no module: "output of NAME".
    """

    def __init__(self, network: nn.Module) -> None:
        self._handles: list[RemovableHandle] = []
        self.begin()
        for name, part in network.named_modules():
            shown = name or "network"
            self._handles += [
                part.register_forward_pre_hook(partial(self._before, shown)),
                part.register_forward_hook(partial(self._after, shown)),
            ]

    def see(self, parameter: str, gradient: Tensor) -> None:
        """Look at the gradient of a parameter, by its name."""
        self._see(("parameter", parameter), parameter.rpartition(".")[0] or "network", gradient)

    def begin(self) -> None:
        """Forget the earlier passes."""
        self._first: Tensor | None = None
        self._key: Any = None
        self._names: list[str] = []

    @property
    def module(self) -> str | None:
        """Return the module of the first non-finite gradient; None if all were finite."""
        if not self._names:
            return None
        made = [name for name in self._names if not name.startswith("output of ")]
        return (
            made[-1] if made else self._names[0]
        )  # innermost: inputs are met outside in, outputs inside out

    def rows(self, samples: int) -> Tensor | None:
        """Return (samples,) bool, the samples that it belongs to; None where that cannot be seen."""
        if self._first is None or self._first.dim() == 0 or len(self._first) != samples:
            return None
        return ~self._first.isfinite().reshape(samples, -1).all(1)

    def remove(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()

    def _before(self, name: str, module: Any, inputs: Any) -> None:
        self._watch(name, inputs)

    def _after(self, name: str, module: Any, inputs: Any, output: Any) -> None:
        self._watch(f"output of {name}", output)

    def _watch(self, name: str, value: Any) -> None:
        if isinstance(value, Tensor) and value.requires_grad and value.grad_fn is not None:
            key = (value.grad_fn, value.output_nr)
            self._handles.append(value.register_hook(partial(self._see, key, name)))
        for part in value if isinstance(value, (tuple, list)) else ():
            self._watch(name, part)

    def _see(self, key: Any, name: str, gradient: Tensor) -> None:
        if self._key is None and not bool(gradient.isfinite().all()):
            parameter = key[0] == "parameter"
            self._key, self._first = key, None if parameter else gradient.detach()
        if self._key == key:
            self._names.append(name)


def _finite(value: Any) -> bool:
    if isinstance(value, Tensor):
        return not value.is_floating_point() or bool(value.isfinite().all())
    return all(map(_finite, value)) if isinstance(value, (tuple, list)) else True


def _samples(batch: Batch, losses: Losses, is_bad: Tensor) -> dict[str, Any]:
    return {"bad": _describe(batch, losses, is_bad), "all": _describe(batch, losses, batch.weight > 0)}


def _describe(batch: Batch, losses: Losses, chosen: Tensor) -> list[dict[str, Any]]:
    rows = chosen.nonzero().flatten().tolist()
    deciles: list[int | None] = [None] * len(batch)
    if losses.time is not None:
        deciles = (losses.time * DECILES).long().clamp(0, DECILES - 1).tolist()
    source = {"source": batch.source} if batch.source else {}
    return [{"id": int(batch.id[row]), "decile": deciles[row], **source} for row in rows]
