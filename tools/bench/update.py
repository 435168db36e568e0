"""Measure what follows a backward pass (clip, AdamW, average), beside the usual loop and the memory's speed.

Ours is the optimizer that trains at ZeRO stage 0 and the averages of every stage, without an engine around;
the steps of engines, at ZeRO-1 and by FSDP2, are what these make of it. Every way gets the same gradients,
and after each round its weights and averages are compared with the same updates in float64.

The limit is the memory's: an update that touches each number once reads gradient, weight, two moments and
average, writes all but the gradient, and must have read the gradient before, for its norm: 40 bytes. How fast
memory is, is measured with `y += a x`, which reads and writes in place as updates do, and with a copy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from core.averages.ema import Ema, EmaConfig
from core.distributed import ranks
from core.errors import UserError
from core.metrics import hardware
from models.denoisers.dit import DiTConfig
from tools.bench.job import Config
from tools.bench.rounds import Floor, Row, Way, measure
from tools.bench.updates import CLIPPING, LR, ONE, OPTIMIZER, Bare, Material, Sharded, Updated, Usual, make

BYTES, EMA_BYTES = 40, 12  # a number, of a whole update and of one average
EXACT = 1e-7
USUAL, ENGINE, TRIAD, COPY = "usual loop", "engine.step() at ZeRO-1", "limit, y += a x", "limit, copy"
FSDP2 = "engine.step() by FSDP2"
THREE = EmaConfig(power_widths=(0.05, 0.1), every=8)


def rows(config: Config, folder: Path) -> list[Row]:
    """Measure the whole update, one average, and three averages after every eighth update."""
    name = config.network or "DiT-B/2"
    if name not in DiTConfig.presets:
        raise UserError("network", config.network, f"one of {', '.join(DiTConfig.presets)}, or ''")
    world = ranks.start()
    material = make(name, world.device)
    bare = Bare(material, ONE)
    protocol = f"gradients of norm 10, clipped to 1; compared with float64 to {EXACT:g} after each round"
    whole = Row(f"clip + AdamW + average, {name}", "parameters", protocol)
    states: dict[str, Updated] = {
        "longtake": bare,
        USUAL: Usual(material),
        ENGINE: Sharded(material, world),
        FSDP2: Sharded(material, world, "fsdp2"),
    }
    ways = [way(name, state, material) for name, state in states.items()]
    whole.timings = measure([*ways, *limits(bare.gradient, material.numbers, BYTES)], config.rounds)
    whole.require(USUAL, 2.8)
    _promise_limit(whole, 1.5)
    whole.facts = {
        "engine's extra, ms": 1000 * (_seconds(whole, ENGINE) - _seconds(whole, "longtake")),
        "extra of FSDP2's, ms": 1000 * (_seconds(whole, FSDP2) - _seconds(whole, "longtake")),
        "GB/s by y += a x": whole.timings[TRIAD].best * BYTES / 1e9,
        "GB/s by copy": whole.timings[COPY].best * BYTES / 1e9,
    }
    del states, ways  # their memory is needed
    one = _one_average(bare, material.numbers, config.rounds)
    del bare
    return [whole, one, _three_averages(material, config.rounds)]


def way(name: str, state: Updated, material: Material) -> Way:
    """Return one way of updating, an update a round; getting the gradients is not timed."""

    def items() -> Iterator[Updated]:
        state.step()
        hardware.wait(material.gradients[0].device)
        yield state

    prepare = partial(_prepare, state, material)
    return Way(name, material.numbers, items, Reference(material).agrees, prepare=prepare)


def _prepare(state: Updated, material: Material) -> None:
    """Get the gradients, and wait until the device has them, or that would count as the update."""
    state.prepare()
    hardware.wait(material.gradients[0].device)


class Reference:
    """Four numbers of every parameter, updated in float64 as clipping, AdamW and the average are defined."""

    def __init__(self, material: Material) -> None:
        norm = math.sqrt(math.fsum(float(g.double().square().sum()) for g in material.gradients))
        self.gradient = torch.cat([_some(g) for g in material.gradients]) * min(1.0, CLIPPING / norm)
        self.start = torch.cat([_some(p) for p in material.network.parameters()])

    def after(self, updates: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return weights, average and first moment after so many updates with the same gradient."""
        (beta_1, beta_2), eps, gradient = OPTIMIZER.betas, OPTIMIZER.eps, self.gradient
        weight, average = self.start.clone(), self.start.clone()
        first, second = torch.zeros_like(weight), torch.zeros_like(weight)
        for update in range(1, updates + 1):
            first = beta_1 * first + (1 - beta_1) * gradient
            second = beta_2 * second + (1 - beta_2) * gradient.square()
            root = (second / (1 - beta_2**update)).sqrt()
            weight = weight - LR * first / (1 - beta_1**update) / (root + eps)
            decay = min(ONE.decay, update / (update + ONE.warmup))
            average = decay * average + (1 - decay) * weight
        return weight, average, first

    def agrees(self, state: Updated) -> bool:
        """Return whether weights and average are right to `EXACT`, and the moment (it shows clipping) to 0.1
        %.
        """
        found = [torch.cat([_some(t) for t in kind]) for kind in zip(*state.result(), strict=True)]
        weight, average, first = self.after(state.updates)
        right = all(float((a - b).abs().max()) <= EXACT for a, b in ((found[0], weight), (found[1], average)))
        return right and float((found[2] - first).norm()) <= 1e-3 * float(first.norm())


def limits(like: Tensor, units: int, number_bytes: int) -> list[Way]:
    """Return two ways to move `number_bytes` for each of `units` numbers."""
    x, y = torch.ones_like(like), torch.zeros_like(like)

    def moving(move: Callable[[int], Any], bytes_once: int) -> Callable[[], Iterator[bool]]:
        def items() -> Iterator[bool]:
            left = units * number_bytes // bytes_once
            while left > 0:
                move(min(left, like.numel()))
                left -= like.numel()
            hardware.wait(like.device)
            yield True

        return items

    moves = {TRIAD: (lambda n: y[:n].add_(x[:n], alpha=0.5), 12), COPY: (lambda n: y[:n].copy_(x[:n]), 8)}
    return [Way(name, units, moving(*move), lambda item: bool(item)) for name, move in moves.items()]


def _one_average(bare: Bare, numbers: int, rounds: int) -> Row:
    """Measure this project's and the parameter-wise loop over one average, beside 12 bytes a number."""
    masters, name = bare.optimizer.masters, "one average"
    ema = Ema(ONE, masters)
    means = [p.detach().clone() for p in bare.parameters]

    def ours() -> Iterator[bool]:
        ema.update(masters, 1)
        hardware.wait(masters[0].device)
        yield True

    def loop() -> Iterator[bool]:
        with torch.no_grad():
            for mean, parameter in zip(means, bare.parameters, strict=True):
                mean.lerp_(parameter, 10 / 11)
        hardware.wait(masters[0].device)
        yield True

    def is_right(item: bool) -> bool:
        return torch.equal(next(iter(ema.averages.values()))[0], masters[0].detach())

    ways = [Way("longtake", numbers, ours, is_right), Way("parameter by parameter", numbers, loop, bool)]
    row = Row(name, "parameters", "of weights that do not move", {})
    row.timings = measure([*ways, *limits(bare.gradient, numbers, EMA_BYTES)], rounds)
    return _promise_limit(row, 1.2)


def _three_averages(material: Material, rounds: int) -> Row:
    """Measure the averages after every eighth update, as a share of the eight updates."""
    bare = Bare(material, THREE)

    def averages() -> Iterator[bool]:
        bare.ema.update(bare.optimizer.masters, THREE.every)
        hardware.wait(material.gradients[0].device)
        yield True

    def update() -> Iterator[bool]:
        bare.update()
        hardware.wait(material.gradients[0].device)
        yield True

    prepare = partial(_prepare, bare, material)
    updates = Way("one update without averages", material.numbers, update, bool, prepare=prepare)
    ways = [Way("longtake", material.numbers, averages, bool), updates]
    row = Row(f"three averages every {THREE.every} updates", "parameters", "all at once", {})
    row.timings = measure(ways, rounds)
    share = _seconds(row, "longtake") / (THREE.every * _seconds(row, updates.name))
    row.floors.append(Floor("of the time of the updates between", share, 0.15, at_most=True))
    return row


def _promise_limit(row: Row, times: float) -> Row:
    """Promise that this project takes at most `times` the time of the faster way to move the bytes."""
    limit = max(row.timings[name].best for name in (TRIAD, COPY))
    row.floors.append(Floor("times the limit", limit / row.timings["longtake"].best, times, at_most=True))
    return row


def _some(tensor: Tensor) -> Tensor:
    """Return four numbers, from the first to the last, in float64 on the CPU."""
    places = [i * (tensor.numel() - 1) // 3 for i in range(4)]
    return tensor.detach().flatten()[places].double().cpu()


def _seconds(row: Row, name: str) -> float:
    return min(row.timings[name].seconds)
