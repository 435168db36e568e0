"""Detect silent corruption: a bit flipped in memory, a device that computes wrongly.

Nothing else notices it: a wrong weight is saved, averaged and trained on. Every `check_every` steps, before
the update, each rank checks four things.

- At rest: what it holds (masters, moments, averages, weights, buffers) has the checksums that it had right
  after the last update. A shard of ZeRO exists once, so only the rank itself can tell.
- Copies: what every rank holds a copy of (weights below stage 3, buffers) is the same everywhere.
- Replicas: where fsdp2 has several, the ranks of one part of the state hold the same shards. So an update
  that came out otherwise on one of them is found, which the rank itself cannot tell.
- Repetition: the first micro-batch, computed twice, the second time without what was made of it ahead, has
  the same losses and gradients. On a CPU losses agree to the bit; gradients everywhere, and losses on a GPU,
  differ by no more than the order of sums may, which kernels there do not promise.

What it cannot see: a bit of a master that exists once and flips between two updates without a check after
them. Other ranks then take the wrong weight for the right one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from core.batch import Batch
from core.checkpoint.format import of_network
from core.config.settings import setting
from core.distributed import ranks
from core.distributed.ranks import Group
from core.engine.network import Network
from core.engine.restoring import dry_step
from core.files import fingerprint
from core.train.runner import StepRunner
from core.train.step import Turn

PART = 1 << 24  # how many numbers are widened at once
DIFFER = 1e-3  # relative to a loss or a norm of gradients: far more than another order of sums makes
DIFFERS = "came out otherwise when computed again (where every machine does so: trainer.check_every=0)"
_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(frozen=True, kw_only=True)
class CorruptionConfig:
    """How often the machine's memory and arithmetic are checked."""

    check_every: int = setting(
        500,
        "steps between checks for flipped bits and wrong arithmetic; each takes about as long as three "
        "steps of one micro-batch. 0 = none, for networks that do not give the same loss twice",
        unit="steps",
        low=0,
        role="work",
    )


class CorruptionCheck:
    """The checks of one rank of a run."""

    def __init__(self, runner: StepRunner, config: CorruptionConfig) -> None:
        self._runner, self._networks, self._config = runner, runner.networks, config
        self._at_rest: dict[str, int] = {}

    def due(self, step_index: int) -> bool:
        """Return whether step `step_index` is to be checked before its update."""
        return self._config.check_every > 0 and (step_index + 1) % self._config.check_every == 0

    def remember(self) -> None:
        """Take the checksums of what this rank holds, right after an update that a check follows."""
        self._at_rest = checksums(self._held())

    def forget(self) -> None:
        """Forget the checksums: the state is about to be replaced by a checkpoint's."""
        self._at_rest = {}

    def find(self, step_index: int, batch: Batch) -> list[dict[str, Any]]:
        """Check; return an entry for each corrupt rank, the same on all ranks: rank, what, how (collective).

        batch: of this rank, on its device. Everything is left as it was.
        """
        sums, rank = checksums(self._held()), self._runner.world.rank
        mine = []
        if changed := [name for name, value in self._at_rest.items() if sums[name] != value]:
            mine.append({"rank": rank, "what": changed[:4], "how": "changed between two updates"})
        for number, turn in enumerate(self._runner.stepper.turns(step_index)):
            if differing := self._repeat(step_index, number, turn, batch):
                named = [of_network(turn.network, name) for name in differing]
                mine.append({"rank": rank, "what": named, "how": DIFFERS})
        copies = Shared({name: sums[name] for name, _ in self._copies()})
        shards = list(self._replicated(sums))
        if _all_is_well(mine, copies, shards):
            return []
        found = [entry for entries in ranks.gather_objects(mine) for entry in entries]
        return found or _differing_ranks([copies, *shards])

    def _held(self) -> Iterator[tuple[str, Tensor]]:
        for network in self._networks:
            yield from self._own(network)
        yield from self._copies()

    def _own(self, network: str) -> Iterator[tuple[str, Tensor]]:
        """Return the tensors that are this rank's part of a network's state."""
        held = self._networks[network]
        for kind, tensors in _tensors(held).items():
            shown = of_network(network, kind)
            yield from ((f"{shown} {number}", flat.detach()) for number, flat in enumerate(tensors))
        parts = held.engine.frozen_parts()
        yield from ((of_network(network, f"part of {name}"), part) for name, part in parts)

    def _replicated(self, sums: Mapping[str, int]) -> Iterator[Shared]:
        """Return the checksums of what other ranks hold as well, network by network."""
        for network, held in self._networks.items():
            if replicas := held.engine.replicas:
                own = {name: sums[name] for name, _ in self._own(network)}
                yield Shared(own, replicas.part, replicas.group)

    def _copies(self) -> Iterator[tuple[str, Tensor]]:
        """Return the tensors that are the same on every rank."""
        for network, held in self._networks.items():
            weight, shown = of_network(network, "weight"), of_network(network, "buffer")
            yield from ((f"{weight} {name}", p) for name, p in held.engine.copies())
            buffers = held.engine.module.named_buffers()
            yield from ((f"{shown} {name}", buffer) for name, buffer in buffers)

    def _repeat(self, step_index: int, number: int, turn: Turn, batch: Batch) -> list[str]:
        """Compute turn `number` of the batch twice; return the results that differ (collective)."""
        norms: list[dict[str, Tensor]] = [{}, {}]
        losses: list[Tensor] = []
        engine = self._networks[turn.network].engine
        with self._runner.trying(turn), dry_step(engine, partial(_note, norms, losses)):
            for given in (batch, replace(batch, prepared=None)):
                self._runner.randomness.seed_torch(step_index, number)
                loss = self._runner.loss(turn, step_index, given).loss
                losses.append(loss.detach())
                engine.backward(torch.where(batch.weight > 0, loss, 0.0).mean())
        return _differing(losses, norms)


@dataclass(frozen=True)
class Shared:
    """Checksums, by name, that are to be the same on all ranks, or on the `group` of those with `part`."""

    sums: dict[str, int]
    part: int = 0
    group: Group = None

    def bounds(self) -> list[int]:
        """Return a hash of all, and its negative: their maxima over ranks add up to 0 where all are equal."""
        whole = int(fingerprint(list(self.sums.values()))[:15], 16)  # 60 bits
        return [whole, -whole]


def _all_is_well(mine: Sequence[Any], copies: Shared, shards: Sequence[Shared]) -> bool:
    """Return whether no rank has found anything and checksums are as equal as they should be (collective).

    Three numbers tell it whatever the number of ranks, and two more between replicas; what differs is
    gathered only where something does.
    """
    spread = [ranks.max_over_ranks(torch.tensor(one.bounds()), one.group).sum().item() for one in shards]
    wrong = len(mine) + sum(map(bool, spread))
    found = ranks.max_over_ranks(torch.tensor([wrong, *copies.bounds()]))
    return found[0].item() == 0 and found[1:].sum().item() == 0


def _differing_ranks(shared: Sequence[Shared]) -> list[dict[str, Any]]:
    """Return an entry for each rank whose checksums are not those of others with its part (collective)."""
    gathered = ranks.gather_objects([(one.part, list(one.sums.values())) for one in shared])
    found: list[dict[str, Any]] = []
    for names, held in zip([list(one.sums) for one in shared], zip(*gathered, strict=True), strict=True):
        for part in sorted({part for part, _ in held}):
            same = {rank: sums for rank, (other, sums) in enumerate(held) if other == part}
            found += compare(names, list(same.values()), list(same))
    return found


def _tensors(network: Network) -> dict[str, list[Tensor]]:
    """Return the tensors of which a rank holds its own part, by kind."""
    averages = network.ema.averages if network.ema else {}
    named = {f"average {name}": average for name, average in averages.items()}
    return {"master": network.engine.masters, **network.engine.moments(), **named}


def compare(
    names: Sequence[str], held: Sequence[Sequence[int]], numbers: Sequence[int]
) -> list[dict[str, Any]]:
    """Return an entry for each rank whose copies are not those of most ranks.

    held: of each rank in `numbers`, the checksums of what is named.  Where no more than half of the ranks
    agree it is not known who is right, and those that differ from the first of them are listed.
    """
    if all(one == held[0] for one in held):
        return []
    (usual, votes), *_ = Counter(map(tuple, held)).most_common(1)
    even = 2 * votes <= len(held)
    how = f"differs from that of rank {numbers[0]}" if even else "is not what the other ranks hold"
    first = held[0] if even else usual
    found = []
    for rank, one in zip(numbers, held, strict=True):
        what = [name for name, a, b in zip(names, one, first, strict=True) if a != b]
        if what:
            found.append({"rank": rank, "what": what[:4], "how": how})
    return found


def checksums(tensors: Iterable[tuple[str, Tensor]]) -> dict[str, int]:
    """Return a number for each named tensor that any flipped bit changes: the sum of its words."""
    sums = {name: _sum_of_words(tensor) for name, tensor in tensors}
    return dict(zip(sums, torch.stack(list(sums.values())).tolist(), strict=True)) if sums else {}


def _words(tensor: Tensor) -> Tensor:
    """Return the numbers' bits, as integers, 1-D."""
    return tensor.reshape(-1).view(_WORDS[tensor.element_size()])


def _sum_of_words(tensor: Tensor) -> Tensor:
    words = _words(tensor)
    total = torch.zeros((), dtype=torch.int64, device=tensor.device)
    for part in words.split(PART):
        total += part.sum(dtype=torch.int64)
    return total


def _note(norms: list[dict[str, Tensor]], losses: list[Tensor], name: str, gradient: Tensor) -> None:
    norms[len(losses) - 1][name] = torch.linalg.vector_norm(gradient, dtype=torch.float64)


def _differing(losses: list[Tensor], norms: list[dict[str, Tensor]]) -> list[str]:
    """Return what differs too much between two passes: (B,) losses, or norms of gradients."""
    found = [] if same_losses(*losses, exact=losses[0].device.type == "cpu") else ["loss"]
    one, other = ([float(norm) for norm in passed.values()] for passed in norms)
    whole = math.hypot(*one)
    far = [n for n, a, b in zip(norms[0], one, other, strict=True) if not abs(a - b) <= DIFFER * whole]
    return found + [f"gradient of {name}" for name in far[:4]] if math.isfinite(whole) else found


def same_losses(one: Tensor, other: Tensor, *, exact: bool) -> bool:
    """Return whether (B,) losses are the same to the bit, or else but for the order of sums."""
    if exact:
        return torch.equal(_words(one), _words(other))
    return torch.allclose(one, other, rtol=DIFFER, atol=0.0, equal_nan=True)
