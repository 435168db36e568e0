"""Compute how much a solver step amplifies the network's error, and which starts of a grid that rules out.

A prediction o = p x_0 + q noise gives data and noise by a system of determinant alpha q - sigma p
(`core.diffusion.predictions`). An error e in o moves the next state of DDIM by

    (alpha_s sigma_t - sigma_s alpha_t) e / determinant_t,

from the level t to the level s below it. Beside the size of that state, sqrt(alpha_s^2 + sigma_s^2), this is
the amplification of the step. Noise prediction has the determinant alpha_t: a path whose signal is nearly
gone at its start (the cosine chain has alpha = 5e-5 there) multiplies every error by thousands.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from core.diffusion.paths.path import Path
from core.diffusion.predictions import Prediction, determinant, level_before
from core.errors import UserError

LARGEST = 20.0  # above it the estimate of the data is mostly error
MOST_STEPS = 1000  # that are tried on a continuous path
FEW_STEPS = 4  # with fewer, a large amplification is only a warning, since it cannot be avoided
MOST_SIGNAL = 0.1  # in a start: a larger share of signal, drawn as noise, would be another distribution


def amplifications(prediction: Prediction, path: Path, times: Sequence[float]) -> list[float]:
    """Return each step's amplification on a falling grid of times; infinite where the determinant is 0."""
    t = torch.tensor(list(times), dtype=torch.float64)
    alpha, sigma = path.levels(t)
    here, there = (alpha[:-1], sigma[:-1]), (alpha[1:], sigma[1:])
    moved = (there[0] * here[1] - there[1] * here[0]).abs()
    before = level_before(path, t[:-1]) if prediction == "posterior_mean" else None
    divisor = torch.as_tensor(determinant(prediction, *here, before), dtype=torch.float64).abs()
    return (moved / (divisor * torch.hypot(*there))).tolist()


class GridOf(Protocol):
    """The times of a start, from it down to 0, in the steps that were asked for or in others."""

    def __call__(self, start: float, steps: int | None = None) -> Sequence[float]: ...


def require_sound_start(
    grid: GridOf, start: float, prediction: Prediction, path: Path, *, bounded: bool = False
) -> str:
    """Refuse a start that amplifies errors, or holds signal that is drawn as noise; return a warning or "".

    bounded: whether a threshold bounds the estimated data, and with them errors that are finite.
    UserError names the largest start that would do, or a number of steps where none does.
    """
    times = grid(start)
    if (share := _signal(path, times[0])) > MOST_SIGNAL:
        expected = f"a start that is nearly all noise; {share:.0%} of it is signal here, which is not known"
        raise UserError("start", start, expected)
    largest = max(amplifications(prediction, path, times))
    if largest <= LARGEST or (bounded and largest < float("inf")):
        return ""
    steps, lower = len(times) - 1, largest_start(grid, prediction, path, start)
    more = 0 if lower else sound_steps(grid, prediction, path, start, steps)
    field, value = ("steps", steps) if more else ("start", start)
    remedies = [f"{lower:g} or lower", "start=auto"] if lower else [str(more)] if more else []
    if not remedies and path.num_steps is not None and steps == int(path.num_steps * start):
        remedies = ["a lower one with fewer sampler.steps"]  # since the chain has not as many times below it
    remedies += ["a threshold"] * (largest < float("inf"))
    remedies += [f"a run with objective.prediction={'edm' if path.scales_input else 'v'}"]
    why = f"a step of {path.name} from start={start:g} enlarges errors of {prediction} prediction"
    expected = f"{_either(remedies)}: {why} {_times(largest)}, and {LARGEST:g}-fold is the limit"
    if steps < FEW_STEPS and largest < float("inf"):
        return f"{field}={value:g}: better {expected}" + " with more steps" * (not more)
    raise UserError(field, value, expected)


def sound_steps(grid: GridOf, prediction: Prediction, path: Path, start: float, steps: int) -> int:
    """Return more steps, found by doubling, in which errors from this start stay small; 0 where none does."""
    most = MOST_STEPS if path.num_steps is None else int(path.num_steps * start)
    count = steps
    while count < most:
        count = min(2 * count, most)
        try:
            times = grid(start, count)
        except UserError:  # times or sections that were given are of so many steps only
            return 0
        if max(amplifications(prediction, path, times)) <= LARGEST:
            return count
    return 0


def largest_start(grid: GridOf, prediction: Prediction, path: Path, below: float = 1.001) -> float:
    """Return the largest start, in thousandths, at which every step keeps errors small; 0 where none does.

    below: starts are lower than this one.
    """
    for thousandths in range(round(below * 1000) - 1, 499, -1):
        lower = thousandths / 1000
        try:
            times = grid(lower)
        except UserError:  # fewer times than steps lie below it
            return 0.0
        if _signal(path, times[0]) > MOST_SIGNAL:
            return 0.0
        if max(amplifications(prediction, path, times)) <= LARGEST:
            return lower
    return 0.0


def unsampled(path: Path) -> str:
    """Return why no sample can start from the end of a path, or ""."""
    share = _signal(path, 1.0)
    if share <= MOST_SIGNAL:
        return ""
    return (
        f"{path.name} ends with {share:.0%} signal, and samples start from noise: `sample` takes at most "
        f"{MOST_SIGNAL:.0%}, which more noise at its end gives"
    )


def _signal(path: Path, time: float) -> float:
    """Return the share of the signal in the size of x_t: alpha / sqrt(alpha^2 + sigma^2)."""
    t = torch.tensor(time, dtype=torch.float64)
    alpha, sigma = map(float, path.levels(t))
    return alpha / (alpha**2 + sigma**2) ** 0.5


def _times(value: float) -> str:
    return "without limit" if value == float("inf") else f"{value:.3g}-fold"


def _either(remedies: Sequence[str]) -> str:
    return f"{', '.join(remedies[:-1])}, or {remedies[-1]}" if len(remedies) > 1 else remedies[0]
