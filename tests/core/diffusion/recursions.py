"""What solvers of the flow, and plain ones that draw, do to Gaussian data: written anew, from the papers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from core.diffusion.paths.path import Path
from tests.core.diffusion.tracked import Pair, begun, drawing, estimate, level_of, steps_of

Recursion = Callable[[Path, Sequence[float]], Tensor]


def first_order(kept_and_drawn: Callable[[float, float, float, float], Pair]) -> Recursion:
    """Follow x_s = alpha_s data + kept noise + drawn z.  kept_and_drawn: of both levels."""

    def follow(path: Path, times: Sequence[float]) -> Tensor:
        state = begun(times)
        draws = drawing(state)
        for level, (alpha_s, sigma_s) in steps_of(path, times):
            kept, drawn = kept_and_drawn(*level, alpha_s, sigma_s)
            data = estimate(state, level)
            noise = (state - level[0] * data) / level[1]
            state = alpha_s * data + kept * noise + drawn * next(draws)
        return state

    return follow


def ddim(eta: float) -> Recursion:
    def kept_and_drawn(alpha: float, sigma: float, alpha_s: float, sigma_s: float) -> Pair:
        forward = sigma**2 - (alpha / alpha_s) ** 2 * sigma_s**2
        drawn = eta * math.sqrt(forward) * sigma_s / sigma
        return math.sqrt(sigma_s**2 - drawn**2), drawn

    return first_order(kept_and_drawn)


def ancestral(share: float) -> Recursion:
    """Follow the posterior's mean; share: of the larger variance in the logarithm of the one drawn."""

    def kept_and_drawn(alpha: float, sigma: float, alpha_s: float, sigma_s: float) -> Pair:
        forward = sigma**2 - (alpha / alpha_s) ** 2 * sigma_s**2
        small = forward * (sigma_s / sigma) ** 2
        drawn = math.sqrt(small ** (1 - share) * forward**share) if sigma_s else 0.0
        return sigma_s**2 * (alpha / alpha_s) / sigma, drawn

    return first_order(kept_and_drawn)


def sde(alpha: float, sigma: float, alpha_s: float, sigma_s: float) -> Pair:
    ratio = alpha * sigma_s / (sigma * alpha_s)  # exp(-h)
    return sigma_s * ratio, sigma_s * math.sqrt(1 - ratio**2)


def renoised(alpha: float, sigma: float, alpha_s: float, sigma_s: float) -> Pair:
    return 0.0, sigma_s


def velocity(state: Tensor, level: Pair) -> Tensor:
    """Return dz/dr = noise - data in z = x / (alpha + sigma), r = sigma / (alpha + sigma)."""
    data = estimate(state, level)
    return (state - level[0] * data) / level[1] - data


def runge_kutta(stages: str) -> Recursion:
    """Follow the stages of "heun", "midpoint" or "rk4"; the step to t = 0 of the last two is midpoint."""

    def follow(path: Path, times: Sequence[float]) -> Tensor:
        state = begun(times)
        for here, there in steps_of(path, times):
            whole, whole_s = sum(here), sum(there)
            r, r_s = here[1] / whole, there[1] / whole_s
            z, h = state / whole, r_s - r
            first = total = velocity(state, here)
            if stages == "heun" and there[1] > 0:
                total = (first + velocity((z + h * first) * whole_s, there)) / 2
            if stages != "heun":
                middle = level_of(path, (r + r_s) / 2, lambda a, s: s / (a + s))
                total = second = velocity((z + h / 2 * first) * sum(middle), middle)
                if stages == "rk4" and there[1] > 0:
                    third = velocity((z + h / 2 * second) * sum(middle), middle)
                    fourth = velocity((z + h * third) * whole_s, there)
                    total = (first + 2 * second + 2 * third + fourth) / 6
            state = (z + h * total) * whole_s
        return state

    return follow


def integrated(points: Sequence[float], here: float, there: Pair) -> Tensor:
    """Return the weight of each estimate in alpha_s int exp(u - h) p(u) du over a step, by quadrature.

    p: the polynomial through estimates at these points in l = log(alpha / sigma).
    """
    h = math.log(there[0] / there[1]) - here
    nodes, weights = (torch.from_numpy(each) for each in np.polynomial.legendre.leggauss(40))
    u = (nodes + 1) * h / 2
    found = []
    for number, point in enumerate(points):
        others = [other for place, other in enumerate(points) if place != number]
        basis = torch.ones_like(u)
        for other in others:
            basis = basis * (u + here - other) / (point - other)
        found.append((weights * h / 2 * torch.exp(u - h) * basis).sum())
    return there[0] * torch.stack(found)


def constant(here: Pair, there: Pair) -> float:
    """Return alpha_s (1 - exp(-h)), in its limit where there is no signal or no noise."""
    return there[0] - there[1] / here[1] * here[0]


def half_slope(points: Sequence[float], here: Pair, there: Pair) -> list[float]:
    """Return weights of two estimates: constant, and half of h times their slope, as 2M and UniPC have it."""
    h = math.log(there[0] / there[1]) - points[-1]
    more = constant(here, there) * h / (2 * (points[-1] - points[-2]))
    return [-more, constant(here, there) + more]


def multistep(kind: str) -> Recursion:
    """Follow "2m", "3m" (exact for the parabola through three) or "3m_diffusers", with the last estimates."""

    def follow(path: Path, times: Sequence[float]) -> Tensor:
        state = begun(times)
        history: list[tuple[float, Tensor]] = []  # log(alpha / sigma) and the estimate there
        again: Callable[[Tensor], Tensor] | None = None
        for here, there in steps_of(path, times):
            data, ratio = estimate(state, here), -math.inf
            if here[0] > 0:
                ratio = math.log(here[0] / here[1])
            if again is not None:
                state, again = again(data), None
            history = [*history, (ratio, data)][-3:] if here[0] else []
            keep = there[1] / here[1]
            if not here[0] or not there[1]:
                state = keep * state + constant(here, there) * data
                continue
            points, estimates = [p for p, _ in history], [e for _, e in history]
            if kind == "2m":
                points, estimates = points[-2:], estimates[-2:]
            if kind == "3m" and len(points) == 1:
                again = _on_the_line(state, keep, ratio, data, there)
            weights = _weights(kind, points, here, there)
            state = keep * state + sum(w * e for w, e in zip(weights, estimates, strict=True))
        return state

    return follow


def _on_the_line(
    state: Tensor, keep: float, ratio: float, data: Tensor, there: Pair
) -> Callable[[Tensor], Tensor]:
    """Return the step taken again once the estimate at its end is known."""

    def again(end: Tensor) -> Tensor:
        first, last = integrated([ratio, math.log(there[0] / there[1])], ratio, there)
        return keep * state + first * data + last * end

    return again


def _weights(kind: str, points: Sequence[float], here: Pair, there: Pair) -> Sequence[float] | Tensor:
    if len(points) == 1:
        return [constant(here, there)]
    if len(points) == 2:
        return integrated(points, points[-1], there) if kind == "3m" else half_slope(points, here, there)
    if kind == "3m":
        return integrated(points, points[-1], there)
    h = math.log(there[0] / there[1]) - points[2]  # algorithm of diffusers, solver_order=3
    r0, r1 = (points[2] - points[1]) / h, (points[1] - points[0]) / h
    of = torch.eye(3, dtype=torch.float64)
    near, far = (of[2] - of[1]) / r0, (of[1] - of[0]) / r1
    first, second = near + r0 / (r0 + r1) * (near - far), (near - far) / (r0 + r1)
    shrink = math.exp(-h) - 1
    return there[0] * (-shrink * of[2] + (shrink / h + 1) * first - ((shrink + h) / h**2 - 0.5) * second)


def unipc(order: int) -> Recursion:
    """Follow UniPC: exact for polynomials, but for one unknown, which is half a slope (2302.04867)."""

    def follow(path: Path, times: Sequence[float]) -> Tensor:
        state = begun(times)
        history: list[tuple[float, Tensor]] = []
        pending: tuple[Tensor, Pair, Pair, list[tuple[float, Tensor]]] | None = None
        for here, there in steps_of(path, times):
            data = estimate(state, here)
            if pending is not None:
                state = _corrected(*pending, data)
            ratio = math.log(here[0] / here[1]) if here[0] else -math.inf
            history, pending = ([*history, (ratio, data)][-order:] if here[0] else []), None
            keep = there[1] / here[1]
            if not here[0] or not there[1]:
                state = keep * state + constant(here, there) * data
                continue
            pending = state, here, there, history
            points, estimates = [p for p, _ in history], [e for _, e in history]
            weights = _weights("2m" if len(points) < 3 else "3m", points, here, there)
            state = keep * state + sum(w * e for w, e in zip(weights, estimates, strict=True))
        return state

    return follow


def _corrected(
    state: Tensor, here: Pair, there: Pair, history: Sequence[tuple[float, Tensor]], end: Tensor
) -> Tensor:
    """Return a step taken again with the estimate at its end."""
    points, estimates = [p for p, _ in history], [e for _, e in history]
    weights: Sequence[float] | Tensor = [constant(here, there) / 2] * 2
    if len(points) > 1:
        weights = integrated([*points, math.log(there[0] / there[1])], points[-1], there)
    moved = sum(w * e for w, e in zip(weights, [*estimates, end], strict=True))
    return there[1] / here[1] * state + moved


def single_step(path: Path, times: Sequence[float]) -> Tensor:
    """Follow DPM-Solver++(2S), with an estimate half-way in l."""
    state = begun(times)
    for here, there in steps_of(path, times):
        data, keep = estimate(state, here), there[1] / here[1]
        if here[0] and there[1]:
            half = (math.log(here[0] / here[1]) + math.log(there[0] / there[1])) / 2
            middle = level_of(path, -half, lambda a, s: math.log(s / a) if a and s else -math.inf)
            inner = middle[1] / here[1] * state + constant(here, middle) * data
            data = estimate(inner, middle)
        state = keep * state + constant(here, there) * data
    return state


def sde_multistep(path: Path, times: Sequence[float]) -> Tensor:
    """Follow SDE-DPM-Solver++(2M): the SDE for the line through the last two estimates, by half its slope."""
    state = begun(times)
    draws = drawing(state)
    before: tuple[float, Tensor] | None = None
    for here, there in steps_of(path, times):
        data = used = estimate(state, here)
        shrink = here[0] * there[1] / (here[1] * there[0])
        ratio = math.log(here[0] / here[1]) if here[0] else -math.inf
        if before is not None and there[1] and math.isfinite(before[0]):
            h = math.log(there[0] / there[1]) - ratio
            used = data + h / (2 * (ratio - before[0])) * (data - before[1])
        drawn = there[1] * math.sqrt(1 - shrink**2)
        state = there[1] / here[1] * shrink * state + there[0] * (1 - shrink**2) * used + drawn * next(draws)
        before = ratio, data
    return state
