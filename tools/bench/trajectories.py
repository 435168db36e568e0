"""Draw what each solver does: trajectories on a mixture in two dimensions, at 5, 10 and 20 evaluations.

`python -m tools.bench.trajectories docs/images/solvers` makes the pictures of docs/method.md again.
"""

from __future__ import annotations

import math
import sys
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from core.diffusion.grids import make_grid
from core.diffusion.paths.kinds import make_path
from core.diffusion.solvers.kinds import KINDS, SolverName
from core.diffusion.solvers.levels import (
    AdaptiveConfig,
    ChurnConfig,
    Estimate,
    Level,
    Options,
    RestartConfig,
    levels_at,
)
from core.diffusion.solvers.runge_kutta import heun_step
from core.diffusion.solvers.stepwise import answered
from core.files import write_text

EVALUATIONS = (5, 10, 20)
STARTS, SIDE, REACH = 12, 200, 2.1  # trajectories; of a panel in pixels, and in units of the data from 0
MEANS = torch.tensor([[1.4, 0.7], [-1.3, 0.9], [0.2, -1.4]], dtype=torch.float64)
SHARES = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
DEVIATION = 0.25
STAGES = 6  # evaluations of a trial of dopri5
TOLERANCES = (0.3, 0.03, 0.003)  # of dopri5, which chooses its own steps
FEW = (1, 2, 4)  # steps of mean_flow, by the exact average velocities
OPTIONS: dict[SolverName, Options] = {
    "euler_maruyama": Options(eta=0.5),
    "edm": Options(churn=ChurnConfig(amount=4.0)),
    "restart": Options(restart=RestartConfig(low=0.2, high=0.6)),
    "langevin": Options(eta=0.5),
}
PATH = make_path("rectified_flow")


def exact(x: Tensor, level: Level) -> Estimate:
    """Return the exact estimate of the mixture."""
    alpha, sigma = (torch.as_tensor(c, dtype=x.dtype).reshape(-1, 1, 1) for c in (level.alpha, level.sigma))
    spread = alpha**2 * DEVIATION**2 + sigma**2
    apart = x[:, None] - alpha * MEANS
    logs = -(apart**2).sum(-1, keepdim=True) / (2 * spread) + SHARES.log()[:, None]
    data = (torch.softmax(logs, 1) * (MEANS + alpha * DEVIATION**2 * apart / spread)).sum(1)
    return Estimate(data, (x - level.alpha * data) / level.sigma)


def averaging(x: Tensor, level: Level) -> Estimate:
    """Return data and noise whose difference is the average velocity of the exact flow over a step.

    level: tells also where the step ends, as a network of two times is told.
    """
    t, end = level.t, float(level.time_input[0, 1]) / 1000  # type: ignore[index]
    moved = x
    times = torch.linspace(t, end, 201, dtype=torch.float64).tolist()
    for here, there in pairwise(levels_at(PATH, times)):
        moved = answered(heun_step(moved, here, there), exact)
    velocity = (x - moved) / (t - end)
    return Estimate(x - t * velocity, x + (1 - t) * velocity)


def starts() -> Tensor:
    """Return starts that lie evenly around the middle, which shows how trajectories part."""
    angle = torch.arange(STARTS, dtype=torch.float64) * (2 * math.pi / STARTS)
    radius = torch.tensor([0.7, 1.3], dtype=torch.float64).repeat(STARTS // 2)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], 1)


def trajectory(name: SolverName, place: int) -> tuple[Tensor, int]:
    """Return states (n, STARTS, 2) of a solver, and the number of its evaluations.

    The states are those that it asked about; of an adaptive one those at the ends of its trials.
    place: in EVALUATIONS.
    """
    kind, seen = KINDS[name], list[Tensor]()

    def watched(x: Tensor, level: Level) -> Estimate:
        seen.append(x)
        return averaging(x, level) if kind.tells_ends else exact(x, level)

    generator = torch.Generator().manual_seed(0)

    def noise(number: int) -> Tensor:
        return torch.randn(STARTS, 2, generator=generator, dtype=torch.float64)

    if kind.is_adaptive:
        times, options = [1.0, 0.0], Options(adaptive=AdaptiveConfig(tolerance=TOLERANCES[place]))
    else:
        steps = FEW[place] if kind.tells_ends else max(1, EVALUATIONS[place] // kind.evaluations)
        times, options = make_grid("even", PATH, steps, 1.0), OPTIONS.get(name, Options())
    end = kind.solve(watched, starts(), times, PATH, noise=noise, options=options)
    kept = seen[::STAGES] if kind.is_adaptive else seen
    return torch.stack([*kept, end]), len(seen)


def picture(name: SolverName) -> str:
    """Return the SVG of a solver."""
    ends = KINDS["rk4"].solve(exact, starts(), make_grid("even", PATH, 400, 1.0), PATH, noise=lambda i: MEANS)
    panels = []
    for place in range(len(EVALUATIONS)):
        states, count = trajectory(name, place)
        shift = place * (SIDE + 8)
        panels.append(_panel(states, ends, shift, f"{name}, {count} evaluations", KINDS[name].is_random))
    width, height = len(EVALUATIONS) * (SIDE + 8) - 8, SIDE + 18
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'font-family="sans-serif" font-size="11"><rect width="100%" height="100%" fill="#fff"/>'
        f"{''.join(panels)}</svg>\n"
    )


def _panel(states: Tensor, ends: Tensor, shift: int, title: str, is_random: bool) -> str:
    """Draw modes, trajectories, their ends, and rings at the ends of the exact flow."""
    size = SIDE / (2 * REACH)
    parts = [f'<text x="{shift + 4}" y="12" fill="#1f2937">{title}</text>']
    for mean in MEANS:
        x, y = _place(mean, shift)
        parts += [
            f'<circle cx="{x}" cy="{y}" r="{size * DEVIATION * deviations:.1f}" fill="#64748b" opacity=".2"/>'
            for deviations in (1, 2)
        ]
    for number in range(STARTS):
        points = " ".join(",".join(_place(state[number], shift)) for state in states)
        parts.append(f'<polyline points="{points}" fill="none" stroke="#2563eb" stroke-width=".9"/>')
        x, y = _place(states[-1, number], shift)
        parts.append(f'<circle cx="{x}" cy="{y}" r="2.2" fill="#dc2626"/>')
        if not is_random:
            x, y = _place(ends[number], shift)
            parts.append(f'<circle cx="{x}" cy="{y}" r="3.8" fill="none" stroke="#1f2937"/>')
    return "".join(parts)


def _place(point: Tensor, shift: int) -> tuple[str, str]:
    x, y = (max(-REACH, min(REACH, value)) for value in point.tolist())
    scale = SIDE / (2 * REACH)
    return f"{shift + scale * (x + REACH):.1f}", f"{18 + scale * (REACH - y):.1f}"


PICTURED = tuple(KINDS)


def make(folder: Path) -> list[Path]:
    """Write a picture of each solver in PICTURED; return their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for name in PICTURED:
        path = folder / f"{name}.svg"
        write_text(path, picture(name))
        found.append(path)
    return found


if __name__ == "__main__":
    make(Path(sys.argv[1]))
