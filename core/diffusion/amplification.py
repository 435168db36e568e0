"""How much a solver step amplifies the network's error, and which starts of a grid this rules out.

A prediction o = p x_0 + q noise gives data and noise by a system of determinant alpha q - sigma p
(`core.diffusion.predictions`). An error e in o moves the next state of DDIM by

    (alpha_s sigma_t - sigma_s alpha_t) e / determinant_t,

from the level t to the level s below it. Beside the size of that state, sqrt(alpha_s^2 + sigma_s^2), this is
the amplification of the step. Noise prediction has the determinant alpha_t: a path whose signal is nearly
gone at its start (the cosine chain has alpha = 5e-5 there) multiplies every error by thousands.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from core.diffusion.paths.path import Path
from core.diffusion.predictions import Prediction, determinant, level_before
from core.errors import UserError

LARGEST = 20.0  # above it the estimate of the data is mostly error
FEW_STEPS = 4  # with fewer, a large amplification is only a warning, since it cannot be avoided
MOST_SIGNAL = 0.1  # in a start: a larger share of signal, drawn as noise, would be another distribution


def amplifications(prediction: Prediction, path: Path, times: Sequence[float]) -> list[float]:
    """Return each step's amplification on a falling grid of times; infinite where the determinant is 0."""
    t = torch.tensor(list(times), dtype=torch.float64)
    alpha, sigma = path.alpha(t), path.sigma(t)
    here, there = (alpha[:-1], sigma[:-1]), (alpha[1:], sigma[1:])
    moved = (there[0] * here[1] - there[1] * here[0]).abs()
    before = level_before(path, t[:-1]) if prediction == "posterior_mean" else None
    divisor = torch.as_tensor(determinant(prediction, *here, before), dtype=torch.float64).abs()
    return (moved / (divisor * torch.hypot(*there))).tolist()


def require_sound_start(
    grid: Callable[[float], Sequence[float]],
    start: float,
    prediction: Prediction,
    path: Path,
    *,
    bounded: bool = False,
) -> str:
    """Refuse a start that amplifies errors, or holds signal that is drawn as noise; return a warning or "".

    grid: the times of a start, from it down to 0.  bounded: whether a threshold bounds the estimated data,
    and with them errors that are finite.
    UserError names the largest start that would do, or that none does.
    """
    times = grid(start)
    if (share := _signal(path, times[0])) > MOST_SIGNAL:
        expected = f"a start that is nearly all noise; {share:.0%} of it is signal here, which is not known"
        raise UserError("start", start, expected)
    largest = max(amplifications(prediction, path, times))
    if largest <= LARGEST or (bounded and largest < float("inf")):
        return ""
    lower = largest_start(grid, prediction, path, start)
    remedy = f"{lower:g} or lower" if lower else "a lower one with fewer sampler.steps"
    why = f"a step of {path.name} from here enlarges errors of {prediction} prediction {_times(largest)}"
    expected = (
        f"{remedy}, start=auto, a threshold, or a run with objective.prediction=v: {why}, and "
        f"{LARGEST:g}-fold is the limit"
    )
    if len(times) - 1 < FEW_STEPS and largest < float("inf"):
        return f"start={start:g}: better {expected} with more steps"
    raise UserError("start", start, expected)


def largest_start(
    grid: Callable[[float], Sequence[float]], prediction: Prediction, path: Path, below: float = 1.001
) -> float:
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


def _signal(path: Path, time: float) -> float:
    """Return the share of the signal in the size of x_t: alpha / sqrt(alpha^2 + sigma^2)."""
    t = torch.tensor(time, dtype=torch.float64)
    alpha, sigma = float(path.alpha(t)), float(path.sigma(t))
    return alpha / (alpha**2 + sigma**2) ** 0.5


def _times(value: float) -> str:
    return "without limit" if value == float("inf") else f"{value:.3g}-fold"
