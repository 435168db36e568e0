"""Compare steps of this project's solvers with diffusers' schedulers, from equal network outputs and draws.

The outputs are there already, so that what is timed is the arithmetic of the steps: ours with what estimates
data and noise, theirs with what scales a network's input. Every evaluation has an output of its own.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from core.diffusion.estimating import estimated
from core.diffusion.paths.kinds import make_path
from core.diffusion.paths.path import Path
from core.diffusion.predictions import network_input
from core.diffusion.solvers.kinds import KINDS
from core.diffusion.solvers.levels import Estimate, Level, levels_at, noise_to_signal, times_at
from tools.bench.rounds import Way
from tools.bench.scheduler_peers import FLOW_TIMES, STEPS, Peer

SHAPE = (64, 4, 32, 32)  # latents of 64 pictures of 256 pixels
REPEATS = 5  # of all steps in a round
CLOSE = 3e-5  # of the largest value


@dataclass(frozen=True)
class Given:
    """The inputs of a case, equal for both: a state, an output for each evaluation, and draws."""

    start: Tensor
    outputs: Sequence[Tensor]
    draws: Sequence[Tensor]

    @classmethod
    def of(cls, shape: tuple[int, ...]) -> Given:
        """Draw all of it."""
        numbers = torch.randn(1 + 2 * STEPS, *shape, generator=torch.Generator().manual_seed(0))
        return cls(numbers[0], numbers[1:].unbind(), numbers[1:].flip(0).unbind())


def make_scheduler(peer: Peer) -> Any:
    """Return a scheduler of diffusers that knows its steps."""
    import diffusers

    scheduler = getattr(diffusers, peer.kind)(**peer.fields)
    scheduler.set_timesteps(**peer.asks)
    return scheduler


def times_of(peer: Peer, scheduler: Any) -> list[float]:
    """Return the times of our steps without the last, 0."""
    if peer.times is not None:
        return list(peer.times)
    sigmas = list(dict.fromkeys(float(sigma) for sigma in scheduler.sigmas if sigma > 0))
    if peer.path == "rectified_flow":
        return sigmas
    return times_at(make_path(peer.path), [math.log(sigma) for sigma in sigmas], noise_to_signal)


def ours(peer: Peer, times: Sequence[float], path: Path, given: Given) -> Tensor:
    """Return the end of our steps."""
    outputs = iter(given.outputs)

    def denoise(x: Tensor, level: Level) -> Estimate:
        network_input(path, x, level.alpha, level.sigma)
        return estimated(peer.prediction, next(outputs), x, level, None)

    draws = given.draws
    solve = KINDS[peer.solver].solve
    return solve(denoise, given.start, [*times, 0.0], path, noise=lambda n: draws[n], options=peer.options)


def theirs(peer: Peer, scheduler: Any, start: Tensor, given: Given) -> Tensor:
    """Return the end of its steps from a start in its variables, its draws given to it."""
    draws = iter(given.draws)
    module = sys.modules[type(scheduler).__module__]
    with patch.object(module, "randn_tensor", lambda *shape, **more: next(draws), create=True):
        scheduler.set_timesteps(**peer.asks)
        return peer.take(peer, scheduler, start, given.outputs)


def ways(peer: Peer, shape: tuple[int, ...] = SHAPE, repeats: int = REPEATS) -> list[Way]:
    """Return ours and theirs, each checked; without diffusers ours alone."""
    given, path = Given.of(shape), make_path(peer.path)
    try:
        scheduler = make_scheduler(peer)
    except ImportError:
        scheduler = None
    times = list(peer.times or FLOW_TIMES) if scheduler is None else times_of(peer, scheduler)
    expected = ours(peer, times, path, given)
    units = len(times) * repeats

    def is_ours(found: Tensor) -> bool:
        return bool(((found - expected).abs().max() < CLOSE * expected.abs().max()).item())

    def is_theirs(found: Tensor) -> bool:
        return bool(found.isfinite().all()) if peer.differs else is_ours(found)

    def repeated(make: Callable[[], Tensor]) -> Callable[[], Iterator[Tensor]]:
        return lambda: (make() for _ in range(repeats))

    found = [Way("longtake", units, repeated(lambda: ours(peer, times, path, given)), is_ours)]
    if scheduler is not None:
        (first,) = levels_at(path, times[:1])
        start = given.start / first.alpha if peer.is_scaled else given.start
        run = repeated(lambda: theirs(peer, scheduler, start, given))
        found.append(Way("diffusers", units, run, is_theirs))
    return found
