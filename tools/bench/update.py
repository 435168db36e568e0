"""What follows a backward pass: clip, AdamW and the average, beside the usual loop and the memory's speed.

Ours is the optimizer that trains at ZeRO stage 0 and the averages of every stage, without an engine around;
the engine's step at ZeRO-1 is what DeepSpeed makes of the same. Every way gets the same gradients, and after
each round its weights and averages are compared with the same updates in float64.

The limit is the memory's: an update that touches each number once reads gradient, weight, two moments and
average, writes all but the gradient, and must have read the gradient before, for its norm: 40 bytes. How fast
memory is, is measured with `y += a x`, which reads and writes in place as updates do, and with a copy.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from core import distributed
from core.ema import Ema, EmaConfig
from core.engine import Engine, EngineConfig
from core.engine_replicated import Replicated
from core.errors import UserError
from core.optim import OptimizerConfig, parameter_groups
from models.dit import DiT, DiTConfig
from tools.bench.job import Config
from tools.bench.rounds import Floor, Row, Way, measure

BYTES, EMA_BYTES = 40, 12  # a number, of a whole update and of one average
CLIPPING, LR, EXACT = 1.0, 1e-4, 1e-7
USUAL, ENGINE, TRIAD, COPY = "usual loop", "engine.step() at ZeRO-1", "limit, y += a x", "limit, copy"
OPTIMIZER = OptimizerConfig(lr=LR)
ONE = EmaConfig()
THREE = EmaConfig(power_widths=(0.05, 0.1), every=8)


Numbers = tuple[Tensor, Tensor, Tensor]
"""Of one parameter: weights, average and first moment."""


@dataclass(frozen=True)
class Material:
    """The network that is copied for every way, and a gradient for each of its parameters, exact in bf16."""

    network: nn.Module
    gradients: list[Tensor]

    @property
    def numbers(self) -> int:
        """Of all parameters."""
        return sum(g.numel() for g in self.gradients)


def rows(config: Config, folder: Path) -> list[Row]:
    """The whole update; one average; three averages after every eighth update."""
    name = config.network or "DiT-B/2"
    if name not in DiTConfig.presets:
        raise UserError("network", config.network, f"one of {', '.join(DiTConfig.presets)}, or ''")
    world = distributed.start()
    material = make(name, world.device)
    bare = Bare(material, ONE)
    protocol = f"gradients of norm 10, clipped to 1; compared with float64 to {EXACT:g} after each round"
    whole = Row(f"clip + AdamW + average, {name}", "parameters", protocol)
    states: dict[str, Updated] = {"longtake": bare, USUAL: Usual(material), ENGINE: Sharded(material, world)}
    ways = [way(name, state, material) for name, state in states.items()]
    whole.timings = measure([*ways, *limits(bare.gradient, material.numbers, BYTES)], config.rounds)
    whole.require(USUAL, 2.8)
    _promise_limit(whole, 1.5)
    whole.facts = {
        "engine's extra, ms": 1000 * (_seconds(whole, ENGINE) - _seconds(whole, "longtake")),
        "GB/s by y += a x": whole.timings[TRIAD].best * BYTES / 1e9,
        "GB/s by copy": whole.timings[COPY].best * BYTES / 1e9,
    }
    del states, ways  # their memory is needed
    one = _one_average(bare, material.numbers, config.rounds)
    del bare
    return [whole, one, _three_averages(material, config.rounds)]


def make(name: str, device: torch.device) -> Material:
    """A network without zeros, and gradients of norm 10, so that clipping has work."""
    torch.manual_seed(0)
    network = DiT(replace(DiTConfig.presets[name], preset=name)).to(device)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.02)
    scale = 10 / math.sqrt(sum(p.numel() for p in network.parameters()))
    gradients = [(torch.randn_like(p) * scale).bfloat16().float() for p in network.parameters()]
    return Material(network.requires_grad_(), gradients)


class Usual:
    """The update as it is mostly written: parameter by parameter, with all defaults."""

    def __init__(self, material: Material) -> None:
        self.material, self.updates = material, 0
        self.model = copy.deepcopy(material.network)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        self.optimizer = torch.optim.AdamW(self.model.parameters(), lr=LR, weight_decay=0.0)

    def prepare(self) -> None:
        for parameter, gradient in zip(self.model.parameters(), self.material.gradients, strict=True):
            parameter.grad = gradient.clone()

    def step(self) -> None:
        self.updates += 1
        nn.utils.clip_grad_norm_(self.model.parameters(), CLIPPING)
        self.optimizer.step()
        decay = min(ONE.decay, self.updates / (self.updates + ONE.warmup))
        with torch.no_grad():
            for mean, parameter in zip(self.average.parameters(), self.model.parameters(), strict=True):
                mean.lerp_(parameter, 1 - decay)

    def result(self) -> list[Numbers]:
        pairs = zip(self.model.parameters(), self.average.parameters(), strict=True)
        return [(p, mean, self.optimizer.state[p]["exp_avg"]) for p, mean in pairs]


class Bare:
    """Ours without an engine: the optimizer and the averages on flat tensors."""

    def __init__(self, material: Material, ema: EmaConfig) -> None:
        self.material, self.updates = material, 0
        model = copy.deepcopy(material.network)
        self.parameters = list(model.parameters())
        self.optimizer = Replicated(
            parameter_groups(model, OPTIMIZER), gradient_clipping=CLIPPING, lr=LR, fused=True
        )
        self.ema = Ema(ema, self.optimizer.flats)

    @property
    def gradient(self) -> Tensor:
        """The largest of the flat gradients."""
        return max(self.optimizer.gradients, key=Tensor.numel)

    def prepare(self) -> None:
        for parameter, gradient in zip(self.parameters, self.material.gradients, strict=True):
            parameter.backward(gradient)

    def step(self) -> None:
        self.update()
        self.ema.update(self.optimizer.flats, self.updates)

    def update(self) -> None:
        """Without the averages."""
        self.updates += 1
        self.optimizer.step()

    def result(self) -> list[Numbers]:
        averages, flats = next(iter(self.ema.averages.values())), self.optimizer.flats
        moments = [self.optimizer.state[flat]["exp_avg"] for flat in flats]
        found = {}
        for p, flat, offset in self.optimizer.layout:
            place = slice(offset, offset + p.numel())
            found[p] = (flats[flat][place], averages[flat][place], moments[flat][place])
        return [found[p] for p in self.parameters]


class Sharded:
    """The engine at ZeRO-1, in bf16 with fp32 masters."""

    def __init__(self, material: Material, world: distributed.World) -> None:
        self.updates = 0
        settings = EngineConfig(zero_stage=1, gradient_clipping=CLIPPING)
        self.engine = Engine(_Given(material), settings, OPTIMIZER, world)
        self.ema = Ema(ONE, self.engine.flats)

    def prepare(self) -> None:
        self.engine.backward(self.engine())

    def step(self) -> None:
        self.updates += 1
        self.engine.step(LR)
        self.ema.update(self.engine.flats, self.engine.updates)

    def result(self) -> list[Numbers]:
        averages, moments = next(iter(self.ema.averages.values())), self.engine.moments()["exp_avg"]
        found = {
            s.name: (s.view(self.engine.flats), s.view(averages), s.view(moments)) for s in self.engine.shards
        }
        return [found[name] for name, _ in self.engine.module.named_parameters()]


class _Given(nn.Module):
    """A network whose backward pass gives the gradients it was made with."""

    def __init__(self, material: Material) -> None:
        super().__init__()
        self.network = copy.deepcopy(material.network)
        self._gradients = [g.bfloat16() for g in material.gradients]

    def forward(self) -> Tensor:
        return _Gradients.apply(self._gradients, *self.network.parameters())


class _Gradients(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gradients: list[Tensor], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return parameters[0].new_zeros((), dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor | None, ...]:
        return (None, *ctx.gradients)


Updated = Usual | Bare | Sharded


def way(name: str, state: Updated, material: Material) -> Way:
    """One update a round; getting the gradients is not timed."""

    def items() -> Iterator[Updated]:
        state.step()
        _wait()
        yield state

    return Way(name, material.numbers, items, Reference(material).agrees, prepare=state.prepare)


class Reference:
    """Four numbers of every parameter, updated in float64 as clipping, AdamW and the average are defined."""

    def __init__(self, material: Material) -> None:
        norm = math.sqrt(math.fsum(float(g.double().square().sum()) for g in material.gradients))
        self.gradient = torch.cat([_some(g) for g in material.gradients]) * min(1.0, CLIPPING / norm)
        self.start = torch.cat([_some(p) for p in material.network.parameters()])

    def after(self, updates: int) -> tuple[Tensor, Tensor, Tensor]:
        """Weights, average and first moment after so many updates with the same gradient."""
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
        """Whether weights and average are right to `EXACT`, and the moment (it shows clipping) to 0.1 %."""
        found = [torch.cat([_some(t) for t in kind]) for kind in zip(*state.result(), strict=True)]
        weight, average, first = self.after(state.updates)
        right = all(float((a - b).abs().max()) <= EXACT for a, b in ((found[0], weight), (found[1], average)))
        return right and float((found[2] - first).norm()) <= 1e-3 * float(first.norm())


def limits(like: Tensor, units: int, number_bytes: int) -> list[Way]:
    """Moving `number_bytes` for each of `units` numbers, in two ways."""
    x, y = torch.ones_like(like), torch.zeros_like(like)

    def moving(move: Callable[[int], Any], bytes_once: int) -> Callable[[], Iterator[bool]]:
        def items() -> Iterator[bool]:
            left = units * number_bytes // bytes_once
            while left > 0:
                move(min(left, like.numel()))
                left -= like.numel()
            _wait()
            yield True

        return items

    moves = {TRIAD: (lambda n: y[:n].add_(x[:n], alpha=0.5), 12), COPY: (lambda n: y[:n].copy_(x[:n]), 8)}
    return [Way(name, units, moving(*move), lambda item: bool(item)) for name, move in moves.items()]


def _one_average(bare: Bare, numbers: int, rounds: int) -> Row:
    """Ours and the parameter-wise loop over one average, beside 12 bytes a number."""
    flats, name = bare.optimizer.flats, "one average"
    ema = Ema(ONE, flats)
    means = [p.detach().clone() for p in bare.parameters]

    def ours() -> Iterator[bool]:
        ema.update(flats, 1)
        _wait()
        yield True

    def loop() -> Iterator[bool]:
        with torch.no_grad():
            for mean, parameter in zip(means, bare.parameters, strict=True):
                mean.lerp_(parameter, 10 / 11)
        _wait()
        yield True

    def is_right(item: bool) -> bool:
        return torch.equal(next(iter(ema.averages.values()))[0], flats[0].detach())

    ways = [Way("longtake", numbers, ours, is_right), Way("parameter by parameter", numbers, loop, bool)]
    row = Row(name, "parameters", "of weights that do not move", {})
    row.timings = measure([*ways, *limits(bare.gradient, numbers, EMA_BYTES)], rounds)
    return _promise_limit(row, 1.2)


def _three_averages(material: Material, rounds: int) -> Row:
    """The averages after every eighth update, as a share of the eight updates."""
    bare = Bare(material, THREE)

    def averages() -> Iterator[bool]:
        bare.ema.update(bare.optimizer.flats, THREE.every)
        _wait()
        yield True

    def update() -> Iterator[bool]:
        bare.update()
        _wait()
        yield True

    updates = Way("one update without averages", material.numbers, update, bool, prepare=bare.prepare)
    ways = [Way("longtake", material.numbers, averages, bool), updates]
    row = Row(f"three averages every {THREE.every} updates", "parameters", "all at once", {})
    row.timings = measure(ways, rounds)
    share = _seconds(row, "longtake") / (THREE.every * _seconds(row, updates.name))
    row.floors.append(Floor("of the time of the updates between", share, 0.15, at_most=True))
    return row


def _promise_limit(row: Row, times: float) -> Row:
    """That ours takes at most `times` the time of the faster way to move the bytes."""
    limit = max(row.timings[name].best for name in (TRIAD, COPY))
    row.floors.append(Floor("times the limit", limit / row.timings["longtake"].best, times, at_most=True))
    return row


def _some(tensor: Tensor) -> Tensor:
    """Four numbers, from the first to the last, in float64 on the CPU."""
    places = [i * (tensor.numel() - 1) // 3 for i in range(4)]
    return tensor.detach().flatten()[places].double().cpu()


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def _seconds(row: Row, name: str) -> float:
    return min(row.timings[name].seconds)
