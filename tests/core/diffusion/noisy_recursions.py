"""What solvers that add noise of their own do to Gaussian data: written anew, from the papers."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from core.diffusion.paths.path import Path
from core.diffusion.solvers.levels import ChurnConfig, CorrectorConfig, RestartConfig
from tests.core.diffusion.recursions import Recursion, velocity
from tests.core.diffusion.tracked import (
    Pair,
    begun,
    coefficients,
    drawing,
    estimate,
    level_of,
    steps_of,
)


def maruyama(eta: float) -> Recursion:
    def follow(path: Path, times: Sequence[float]) -> Tensor:
        state = begun(times)
        draws = drawing(state)
        for here, there in steps_of(path, times):
            r, h = here[1] / sum(here), here[1] / sum(here) - there[1] / sum(there)
            more = eta if there[1] else 0.0
            noise = (state - here[0] * estimate(state, here)) / here[1]
            z = state / sum(here) - h * velocity(state, here) - more * h * noise
            state = sum(there) * (z + math.sqrt(2 * more * r * h) * next(draws))
        return state

    return follow


def corrected(eta: float, corrector: CorrectorConfig) -> Recursion:
    """Follow ddim, and x + e score + sqrt(2 e) z at its end, with score = (alpha data - x) / sigma^2."""

    def follow(path: Path, times: Sequence[float]) -> Tensor:
        state = begun(times)
        draws = drawing(state)
        for (alpha, sigma), there in steps_of(path, times):
            forward = sigma**2 - (alpha / there[0]) ** 2 * there[1] ** 2
            drawn = eta * math.sqrt(forward) * there[1] / sigma
            data = estimate(state, (alpha, sigma))
            kept = math.sqrt(there[1] ** 2 - drawn**2) * (state - alpha * data) / sigma
            state = there[0] * data + kept + drawn * next(draws)
            for _ in range(corrector.steps if there[1] else 0):
                e = 2 * (corrector.size * there[1]) ** 2
                score = (there[0] * estimate(state, there) - state) / there[1] ** 2
                state = state + e * score + math.sqrt(2 * e) * next(draws)
        return state

    return follow


def heun(state: Tensor, here: Pair, there: Pair) -> Tensor:
    z, h = state / sum(here), there[1] / sum(there) - here[1] / sum(here)
    first = total = velocity(state, here)
    if there[1]:
        total = (first + velocity((z + h * first) * sum(there), there)) / 2
    return (z + h * total) * sum(there)


def churned(churn: ChurnConfig) -> Recursion:
    """Follow algorithm 2 of 2206.00364, in the levels of any path."""

    def follow(path: Path, times: Sequence[float]) -> Tensor:
        state = begun(times)
        draws = drawing(state)
        factor = 1 + min(churn.amount / (len(times) - 1), math.sqrt(2) - 1)
        ((top_alpha, top_sigma),) = coefficients(path, [1.0])
        for here, there in steps_of(path, times):
            alpha, sigma = here
            ratio = sigma / alpha if alpha else math.inf
            fits = top_alpha == 0 or factor * ratio <= top_sigma / top_alpha
            if alpha and churn.low <= ratio <= churn.high and fits:
                log_ratio = math.log(factor * ratio)
                here = level_of(path, log_ratio, lambda a, s: math.log(s / a) if a and s else -math.inf)
                grown = here[0] / alpha
                drawn = churn.noise * math.sqrt(here[1] ** 2 - (grown * sigma) ** 2)
                state = grown * state + drawn * next(draws)
            state = heun(state, here, there)
        return state

    return follow


def restarted(restart: RestartConfig) -> Recursion:
    def follow(path: Path, times: Sequence[float]) -> Tensor:
        state, levels = begun(times), coefficients(path, times)
        draws = drawing(state)
        inner = range(len(levels) - 1)
        first, last = (
            min(inner, key=lambda n, t=t: abs(times[n] - t))  # type: ignore[misc]
            for t in (restart.high, restart.low)
        )

        def down(state: Tensor, start: int, end: int) -> Tensor:
            for number in range(start, end):
                state = heun(state, levels[number], levels[number + 1])
            return state

        state = down(state, 0, last)
        (high, high_sigma), (low, low_sigma) = levels[first], levels[last]
        for _ in range(restart.times if first < last else 0):
            drawn = math.sqrt(high_sigma**2 - (high / low * low_sigma) ** 2)
            state = down(high / low * state + drawn * next(draws), first, last)
        return down(state, last, len(levels) - 1)

    return follow
