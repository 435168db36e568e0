"""Grids of times from a start down to data, by name."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch

from core.diffusion.paths.path import Path
from core.diffusion.solvers.levels import noise_share, noise_to_signal, times_at
from core.diffusion.timesteps import shifted
from core.errors import UserError

Grid = Literal[
    "even",
    "trailing",
    "leading",
    "quadratic",
    "cosine",
    "straight",
    "log_snr",
    "edm",
    "optimised",
    "meta",
    "meta_ddim",
]
SHAPE = (1.75, 1.35, 2.2)  # of the grid `optimised`, as tools/bench/grid_fitting.py finds it
RHO = 7.0  # of the grid `edm` (2206.00364, eq. 5)
NEAR = 1e-3  # distance in time from the ends of a path where log(sigma / alpha) is infinite


def make_grid(
    kind: Grid, path: Path, steps: int, start: float, shift: float = 1.0, sections: Sequence[int] = ()
) -> list[float]:
    """Return steps + 1 falling times from `start` to 0.

    On a chain of N steps they are grid times (i + 1) / N, and then 0, so that the network sees only times at
    which it was trained (2102.09672, section 4).  shift: moves them towards noise.  sections: of `meta`, the
    steps of equal parts of the chain, from data on.
    """
    plain = by_sections(path, sections, start) if sections else _KINDS[kind](path, steps, start)
    times = shifted(torch.tensor(plain, dtype=torch.float64), shift).tolist()
    if path.num_steps is not None and steps > path.num_steps * start:
        raise UserError("steps", steps, f"at most {int(path.num_steps * start)} on {path.name}")
    if kind == "even" and path.num_steps is not None and len(set(_places(path, times))) < len(times):
        raise UserError("steps", steps, f"fewer: with shift={shift} two of them share a time of {path.name}")
    return on_path(path, times)


def on_path(path: Path, times: Sequence[float]) -> list[float]:
    """Return falling times with 0 after them; on a chain the nearest of its own, each once."""
    if path.num_steps is None:
        return [*times, 0.0]
    return [place / path.num_steps for place in _apart(_places(path, times))] + [0.0]


def _places(path: Path, times: Sequence[float]) -> list[float]:
    assert path.num_steps is not None
    return [max(1.0, float(torch.round(torch.tensor(time * path.num_steps)))) for time in times]


def _apart(places: Sequence[float]) -> list[float]:
    """Return falling places of a chain: those that share one take the next free ones, towards noise first."""
    found = list(places)
    for number in range(len(found) - 2, -1, -1):
        found[number] = max(found[number], found[number + 1] + 1)
    found[0] = min(found[0], places[0])
    for number in range(1, len(found)):
        found[number] = min(found[number], found[number - 1] - 1)
    return found


def own_grid(times: Sequence[float], path: Path, steps: int, start: float) -> list[float]:
    """Return a list of times that a person gave, with 0 after them."""
    last = 0.0 if path.num_steps is None else 0.5 / path.num_steps
    if len(times) != steps:
        raise UserError("times", list(times), f"{steps} times, as steps says")
    if any(a <= b for a, b in pairwise(times)) or not last < times[-1] or not times[0] <= 1:
        raise UserError("times", list(times), "times that fall, from 1 at most to above 0")
    if times[0] != start:
        raise UserError("times", list(times), f"times from start={start:g} on")
    if path.num_steps is None:
        return [*times, 0.0]
    off = [time for time in times if abs(time * path.num_steps - round(time * path.num_steps)) > 1e-6]
    if off:
        raise UserError("times", off[0], f"multiples of 1/{path.num_steps}, the times of {path.name}")
    return [round(time * path.num_steps) / path.num_steps for time in times] + [0.0]


def _even(path: Path, steps: int, start: float) -> list[float]:
    """Take even times; on a chain from the start to its first time, as `linspace` of diffusers."""
    if path.num_steps is None:
        return torch.linspace(start, 0, steps + 1, dtype=torch.float64)[:-1].tolist()
    return torch.linspace(start, 1 / path.num_steps, steps, dtype=torch.float64).tolist()


def _trailing(path: Path, steps: int, start: float) -> list[float]:
    """Take even times that end one step before 0 (2305.08891, section 3.3)."""
    return [start * (1 - step / steps) for step in range(steps)]


def _leading(path: Path, steps: int, start: float) -> list[float]:
    """Take every k-th time of a chain from its first on; the largest lies below the start."""
    if path.num_steps is None:
        raise UserError("grid", "leading", f"another: {path.name} is no chain of steps")
    stride = int(start * path.num_steps) // steps
    places = [step * stride + 1 for step in range(steps)][::-1]
    return [place / path.num_steps for place in places]


def _meta(path: Path, steps: int, start: float) -> list[float]:
    """Take the respacing `STEPS` of improved diffusion and of DiT: indices that are as even as rounding lets
    them be, from 0 on (2102.09672, section 4); of one step index 0.
    """
    return by_sections(path, (steps,), start)


def by_sections(path: Path, sections: Sequence[int], start: float) -> list[float]:
    """Take their respacing `A,B,...`: as many steps from each of equal parts of the chain, the first of which
    lies at data. Where the parts cannot be equal, the first ones have an index more.
    """
    count = _whole_chain("meta", path, start)
    places, begin = list[int](), 0
    for number, steps in enumerate(sections):
        size = count // len(sections) + (number < count % len(sections))
        if steps > size:
            raise UserError("sections", list(sections), f"at most {size} steps of part {number + 1}")
        stride = (size - 1) / (steps - 1) if steps > 1 else 1.0
        place = 0.0
        for _ in range(steps):
            places.append(begin + round(place) + 1)
            place += stride  # summed as there, since halves are rounded
        begin += size
    return [place / count for place in places[::-1]]


def _meta_ddim(path: Path, steps: int, start: float) -> list[float]:
    """Take their respacing `ddimSTEPS`: indices 0, k, 2k, ... by the whole k that gives so many."""
    count = _whole_chain("meta_ddim", path, start)
    for stride in range(1, count + 1):
        if len(range(0, count, stride)) == steps:
            return [(index + 1) / count for index in range(0, count, stride)][::-1]
    near = sorted({len(range(0, count, k)) for k in range(1, count + 1)}, key=lambda n: abs(n - steps))[:2]
    expected = " or ".join(map(str, sorted(near)))
    raise UserError("steps", steps, f"{expected} with grid=meta_ddim: no whole stride gives {steps}")


def _whole_chain(kind: Grid, path: Path, start: float) -> int:
    if path.num_steps is None:
        raise UserError("grid", kind, f"another: {path.name} is no chain of steps")
    if start != 1:
        raise UserError("start", start, f"1 with grid={kind}")
    return path.num_steps


def _quadratic(path: Path, steps: int, start: float) -> list[float]:
    """Take even square roots of times (2010.02502, appendix D.2)."""
    return [start * (1 - step / steps) ** 2 for step in range(steps)]


def _cosine(path: Path, steps: int, start: float) -> list[float]:
    """Take times that are close together at both ends."""
    return [start * math.sin(math.pi / 2 * (1 - step / steps)) ** 2 for step in range(steps)]


def _straight(path: Path, steps: int, start: float) -> list[float]:
    """Take even shares of noise, sigma / (alpha + sigma)."""
    first = _at(path, start, noise_share)
    wanted = [first * (1 - step / steps) for step in range(steps)]
    return [start, *times_at(path, wanted[1:], noise_share)]


def _log_snr(path: Path, steps: int, start: float) -> list[float]:
    """Take even log signal-to-noise ratios (2206.00927, section 3.4)."""
    first, last = _bounds(path, start)
    wanted = torch.linspace(first, last, steps, dtype=torch.float64).tolist()
    return [start, *times_at(path, wanted[1:], noise_to_signal)]


def _edm(path: Path, steps: int, start: float) -> list[float]:
    """Take even sigma^(1/7) of sigma / alpha (2206.00364, eq. 5)."""
    first, last = (math.exp(bound / RHO) for bound in _bounds(path, start))
    wanted = torch.linspace(first, last, steps, dtype=torch.float64).log() * RHO
    return [start, *times_at(path, wanted.tolist()[1:], noise_to_signal)]


def optimised(path: Path, steps: int, start: float, shape: tuple[float, float, float] = SHAPE) -> list[float]:
    """Take shares of noise 1 - (1 - v^a)^b of the start's, for even v from 1 to c / steps; shape: (a, b, c).

    The flow is the same in that share on every path, so that a shape is of none. With a above 1 times are
    denser near data, with b above 1 near noise; c above 1 makes the last step, to data, longer.
    """
    a, b, c = shape
    first, last = _at(path, start, noise_share), min(c / steps, 0.75)
    even = torch.linspace(1, last, steps, dtype=torch.float64)
    return [start, *times_at(path, (first * (1 - (1 - even**a) ** b)).tolist()[1:], noise_share)]


def _bounds(path: Path, start: float) -> tuple[float, float]:
    """Return log(sigma / alpha) at the start and near data, where both are finite."""
    last = path.first or NEAR
    return _at(path, min(start, 1 - NEAR), noise_to_signal), _at(path, last, noise_to_signal)


def _at(path: Path, time: float, measure: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> float:
    t = torch.tensor([time], dtype=torch.float64)
    return float(measure(*path.levels(t)))


_KINDS: dict[Grid, Callable[[Path, int, float], list[float]]] = {
    "even": _even,
    "trailing": _trailing,
    "leading": _leading,
    "quadratic": _quadratic,
    "cosine": _cosine,
    "straight": _straight,
    "log_snr": _log_snr,
    "edm": _edm,
    "optimised": optimised,
    "meta": _meta,
    "meta_ddim": _meta_ddim,
}
