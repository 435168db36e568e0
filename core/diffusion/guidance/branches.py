"""Guidance by differences of outputs: of one network under several conditions, or of several networks.

output = given + sum of (scale - 1) (high - low) over the contrasts; with one contrast from the given output
to that without condition it is classifier-free guidance (Ho and Salimans, arXiv:2207.12598).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor

from core.batch import Condition
from core.diffusion.conditioning import stacked, without
from core.diffusion.objectives.noised import Model
from core.errors import UserError
from core.progress import say

Part = Literal["frames", "label", "text"]
PARTS: tuple[Part, ...] = ("frames", "label", "text")  # the order in which scales of their own act


@dataclass(frozen=True)
class Contrast:
    """A difference of two outputs, by number; the first output, 0, is the one with all conditions."""

    low: int
    scale: float
    high: int = 0


@dataclass(frozen=True)
class Branch:
    """An evaluation: a network under a condition."""

    model: Model
    condition: Condition


@dataclass(frozen=True)
class Branches:
    """The outputs that guide, the given one first, and how they are compared."""

    outputs: tuple[Branch, ...]
    contrasts: tuple[Contrast, ...] = ()

    def with_weaker(self, model: Model | None, scale: float) -> Branches:
        """Add guidance away from a weaker network under the same condition (autoguidance, 2406.02507)."""
        if model is None or scale == 1:
            return self
        weak = Branch(model, self.outputs[0].condition)
        return Branches((*self.outputs, weak), (*self.contrasts, Contrast(len(self.outputs), scale)))


Mix = Callable[[Sequence[Tensor], Sequence[Contrast]], Tensor]
"""Of outputs in one prediction, what is taken instead."""


class Guided(Protocol):
    def __call__(self, x: Tensor, t: float, time_input: float | Tensor, mix: Mix | None = None) -> Tensor:
        """Return the guided output.

        time_input: of all samples, or (B, G) of groups of frames.  mix: None mixes linearly.
        """
        ...


def linear(outputs: Sequence[Tensor], contrasts: Sequence[Contrast]) -> Tensor:
    """Return the given output moved along the contrasts."""
    given = outputs[0]
    if len(contrasts) == 1 and contrasts[0].high == 0:
        (only,) = contrasts
        return outputs[only.low] + only.scale * (given - outputs[only.low])
    moved = given
    for each in contrasts:
        moved = moved + (each.scale - 1) * (outputs[each.high] - outputs[each.low])
    return moved


def scale_of(part: Part, scale: float, own: dict[Part, float]) -> float:
    """Return the scale of a condition; frames are guided by a scale of their own alone."""
    return own.get(part, 1.0 if part == "frames" else scale)


def dropped_parts(
    given: Collection[str], scale: float, own: dict[Part, float]
) -> list[tuple[frozenset[Part], float]]:
    """Return which parts are dropped in each further output, the fewest first, and the scale of that step.

    given: the parts that samples have.  own: scales of single parts; others are guided by `scale`.
    Neighbours of equal scales are dropped together, and what has the scale 1 needs no output.
    """
    present = [part for part in PARTS if part in given]
    steps: list[tuple[list[Part], float]] = []
    for part in reversed(present):
        size = scale_of(part, scale, own)
        if steps and steps[-1][1] == size:
            steps[-1][0].append(part)
        else:
            steps.append(([part], size))
    while steps and steps[-1][1] == 1:
        steps.pop()
    found, dropped = [], frozenset[Part]()
    for parts, size in steps:
        dropped = dropped | frozenset(parts)
        found.append((dropped, size))
    return found


def by_condition(
    model: Model,
    condition: Condition,
    scale: float,
    own: dict[Part, float] | None = None,
    negative: Condition | None = None,
) -> Branches:
    """Return classifier-free guidance, with scales of single conditions where `own` has them.

    negative: condition that takes the place of none, for samples that have one (label -1 and text of length
    0 are none).
    """
    steps = dropped_parts(parts_of(condition), scale, own or {})
    if not steps and (scale != 1 or any(size != 1 for size in (own or {}).values())):
        expected = "1, since nothing is given (no label, no text) that could be dropped"
        raise UserError("guidance", scale, expected)
    outputs, contrasts = [Branch(model, condition)], []
    for number, (dropped, size) in enumerate(steps):
        outputs.append(Branch(model, without(condition, dropped, negative)))
        contrasts.append(Contrast(number + 1, size, high=number))
    return Branches(tuple(outputs), tuple(contrasts))


def parts_of(condition: Condition) -> list[Part]:
    """Return the parts that samples have."""
    values = {"frames": condition.frame_mask, "label": condition.label, "text": condition.text}
    return [part for part in PARTS if values[part] is not None]


def guided_by(
    branches: Branches, interval: tuple[float, float] = (0.0, 1.0), *, together: bool = True
) -> Guided:
    """Return guided(x, t, time_input), the guided output in any linear prediction.

    Outputs of one network are evaluated as one batch where `together` says so and memory suffices. Without
    contrasts, or where t lies outside `interval` (limited interval, Kynkäänniemi et al., arXiv:2404.07724),
    it is one forward of B with the condition; scale 0 is one forward without. A learned variance, the upper
    half of the channels, is that of the output with the condition.
    """
    outputs, contrasts = branches.outputs, branches.contrasts
    evaluate = _Evaluations(outputs, together=together)
    is_null_alone = len(contrasts) == 1 and contrasts[0] == Contrast(1, 0.0)

    def guided(x: Tensor, t: float, time_input: float | Tensor, mix: Mix | None = None) -> Tensor:
        if isinstance(time_input, Tensor):
            time = time_input
        else:
            time = torch.full((len(x),), time_input, dtype=torch.float32, device=x.device)
        if not contrasts or not interval[0] <= t <= interval[1]:
            return _kept(outputs[0].model(x, time, outputs[0].condition), x)
        if is_null_alone and mix is None:
            return _kept(outputs[1].model(x, time, outputs[1].condition), x)
        found = evaluate(x, time)
        channels = x.shape[1]
        mixed = (mix or linear)([found[n][:, :channels] for n in range(len(outputs))], contrasts)
        return torch.cat([mixed, found[0][:, channels:]], dim=1)

    return guided


class _Evaluations:
    """The outputs of all branches: as few batches as may be, one a branch once these took too much memory."""

    def __init__(self, outputs: Sequence[Branch], *, together: bool) -> None:
        self._outputs, self._groups = outputs, _groups(outputs, together=together)

    def __call__(self, x: Tensor, time: Tensor) -> dict[int, Tensor]:
        """Return the outputs by number."""
        try:
            return self._all(x, time)
        except torch.OutOfMemoryError:
            if len(self._groups) == len(self._outputs):
                raise
        self._groups = _groups(self._outputs, together=False)
        say(
            f"memory is short for {len(x)} samples under all conditions at once; they take turns from here on"
        )
        return self._all(x, time)

    def _all(self, x: Tensor, time: Tensor) -> dict[int, Tensor]:
        found: dict[int, Tensor] = {}
        for model, numbers, condition in self._groups:
            many = len(numbers)
            output = _kept(model(torch.cat([x] * many), torch.cat([time] * many), condition), x)
            found |= zip(numbers, output.chunk(many), strict=True)
        return found


def _groups(outputs: Sequence[Branch], *, together: bool) -> list[tuple[Model, list[int], Condition]]:
    """Return the evaluations of a step: a network, the outputs it gives, and the condition of all of them."""
    found: list[tuple[Model, list[int]]] = []
    for number, branch in enumerate(outputs):
        same = [numbers for model, numbers in found if model is branch.model]
        if same and together:
            same[0].append(number)
        else:
            found.append((branch.model, [number]))
    return [(model, ns, stacked([outputs[n].condition for n in ns])) for model, ns in found]


def _kept(output: Tensor, x: Tensor) -> Tensor:
    """Return an output in float32, or in the dtype of x where that is wider."""
    return output.to(torch.promote_types(torch.float32, x.dtype))
