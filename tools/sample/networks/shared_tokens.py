"""Sample with ranks that share the tokens of every sample (`core.distributed.sequence`).

The first rank is a worker like any other, and makes all draws. Whenever it calls a network it sends the input
to the others, which hold the same weights and compute their share of the tokens. They need to know which
networks these are, and end when the first rank is done, or when any has failed (`failure_watch`). Where
derivatives of an output will be asked for, all keep what they take, until the first rank has no more use of
the output.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn

from core.batch import Condition
from core.checkpoint import exported
from core.distributed import ranks, waiting
from core.distributed.sequence import SequenceGroup, make_sequence_group
from core.errors import UserError, WorkError
from core.faults.failpoints import failpoint
from core.run.ending import Ending
from models.denoisers.network import Denoiser, DenoiserConfig
from models.denoisers.skipping import numbers_of
from models.precision import Precision, compute_repeatably
from tools.runs.loaded_run import LoadedRun, open_run
from tools.sample.networks.failure_watch import LOST_S, FailureWatch
from tools.sample.networks.shared_derivatives import Derivable, Derived

FIELD = "sequence_parallel"
FAILPOINT = "sample.shared"  # of every rank, where the first has called a network


@dataclass(frozen=True)
class _Network:
    """The place of a network's weights, as `open_run` takes it, and their hash."""

    source: str
    checkpoint: str
    weights: str
    sha256: str


@dataclass(frozen=True)
class _Networks:
    """The networks of a job, which followers open.  precision: in which they compute."""

    each: tuple[_Network, ...]
    precision: Precision


@dataclass(frozen=True)
class _Call:
    """A call of a network.  tensors: shape and dtype of each of its inputs, None for one that is not there.

    blocks: numbers of those that are computed.  derivable: number by which derivatives of the output will be
    asked for, None where they will not.  released: such numbers that nobody will ask for any more.
    """

    network: int
    tensors: tuple[tuple[tuple[int, ...], torch.dtype] | None, ...]
    blocks: tuple[int, ...]
    derivable: int | None
    released: tuple[int, ...]


@dataclass(frozen=True)
class _Product:
    """A vector is to be multiplied by the derivative of an earlier output, by number."""

    derivable: int


@dataclass
class Leader:
    """The first of the ranks that share tokens.  sequence, watch: of all of them."""

    sequence: SequenceGroup
    watch: FailureWatch
    _derivable: int = 0  # outputs until now of which derivatives could be asked for
    _released: list[int] = field(default_factory=list)

    def open(self, *runs: tuple[str, LoadedRun | None], precision: Precision) -> None:
        """Have the others open the networks of these folders, and compute with them from now on."""
        opened = [(source, run) for source, run in runs if run is not None]
        each = [
            _Network(source, _checkpoint(source, run), run.weights, run.weights_sha256)
            for source, run in opened
        ]
        with self.watch.shared():
            ranks.broadcast_object(_Networks(tuple(each), precision))
        for number, (_, run) in enumerate(opened):
            self._share(number, run.model)

    def end(self) -> None:
        """Let the others end."""
        with self.watch.shared():
            ranks.broadcast_object(None)

    def _share(self, number: int, model: Denoiser) -> None:
        """Have every call of a network computed with the others."""
        network: nn.Module = model
        plain, blocks = network.forward, list(model.blocks)

        def call(x: Tensor, time: Tensor, condition: Condition, derivable: int | None = None) -> None:
            tensors = (x, time, *(getattr(condition, each.name) for each in fields(Condition)))
            kinds = tuple(None if t is None else (tuple(t.shape), t.dtype) for t in tensors)
            released, self._released = tuple(self._released), []
            numbers = numbers_of(model, blocks)
            ranks.broadcast_object(_Call(number, kinds, numbers, derivable, released))
            for tensor in tensors:
                if tensor is not None:
                    dist.broadcast(tensor.detach().contiguous(), src=0)
            failpoint(FAILPOINT)

        def forward(x: Tensor, time: Tensor, condition: Condition) -> Tensor:
            if not (torch.is_grad_enabled() and x.requires_grad):
                with self.watch.shared():
                    call(x, time, condition)
                    output: Tensor = plain(x, time, condition)
                return output
            self._derivable += 1
            asked = self._derivable

            def begin(x: Tensor) -> Derivable:
                with self.watch.shared():
                    call(x, time, condition, asked)
                    found = Derivable.of(plain, x, time, condition, self.sequence)
                weakref.finalize(found, lambda: self._released.append(asked))
                return found

            def product(found: Derivable, vector: Tensor) -> Tensor:
                with self.watch.shared():
                    ranks.broadcast_object(_Product(asked))
                    dist.broadcast(vector := vector.contiguous(), src=0)
                    return found.product(vector)

            derived: Tensor = Derived.apply(x, begin, product)
            return derived

        network.forward = forward


def together(size: int, device: str, output: Path, lead: Callable[[Leader], None]) -> None:
    """Have the first of `size` ranks do `lead`, and the others compute with it (collective: all ranks).

    UserError where there are not as many ranks. Where one fails, so do all: RankFailed there, PeerLost on the
    others.
    """
    world = ranks.start(device, folder=output)
    watch = FailureWatch(waiting.store(), world.rank, world.size, waiting.silence(LOST_S))
    try:
        if world.size != size:
            expected = f"the number of ranks, {world.size} (processes={size} starts so many here)"
            raise UserError(FIELD, size, expected)
        sequence = make_sequence_group(world, size)
        assert sequence is not None
        if world.rank == 0:
            with watch.told():
                lead(leader := Leader(sequence, watch))
                leader.end()
        else:
            with Ending(speaks=False).catching(), watch.shared():
                _follow(world.device, sequence)
    finally:
        with watch.leaving():
            ranks.stop(world)
        watch.close()


def _checkpoint(source: str, run: LoadedRun) -> str:
    """Return the checkpoint as `open_run` takes it."""
    return "" if exported.is_export(Path(source)) else run.checkpoint


def require_shareable(network: DenoiserConfig, size: int) -> None:
    """Raise UserError for what ranks cannot share: a network without tokens."""
    if network.attention_heads(size) is None:
        raise UserError(FIELD, size, f"1: model.kind={network.kind} cannot share the tokens of an input")


@torch.no_grad()
def _follow(device: torch.device, sequence: SequenceGroup) -> None:
    """Compute what the first rank calls until it is done."""
    models: list[tuple[Denoiser, list[nn.Module]]] = []
    kept: dict[int, Derivable] = {}
    while (message := ranks.broadcast_object(None)) is not None:
        if isinstance(message, _Networks):
            models = [_opened(each, message.precision, device, sequence) for each in message.each]
            continue
        if isinstance(message, _Product):
            found = kept[message.derivable]
            vector = torch.empty(found.output.shape, dtype=found.output.dtype, device=device)
            dist.broadcast(vector, src=0)
            found.product(vector)
            continue
        model, blocks = models[message.network]
        tensors = [_received(kind, device) for kind in message.tensors]
        for number in message.released:
            del kept[number]
        failpoint(FAILPOINT)
        model.blocks = nn.ModuleList(blocks[number] for number in message.blocks)
        (x, time), condition = tensors[:2], Condition(*tensors[2:])
        assert x is not None
        assert time is not None
        if message.derivable is None:
            model(x, time, condition)
        else:
            kept[message.derivable] = Derivable.of(model, x, time, condition, sequence)


def _received(kind: tuple[tuple[int, ...], torch.dtype] | None, device: torch.device) -> Tensor | None:
    if kind is None:
        return None
    tensor = torch.empty(kind[0], dtype=kind[1], device=device)
    dist.broadcast(tensor, src=0)
    return tensor


def _opened(
    network: _Network, precision: Precision, device: torch.device, sequence: SequenceGroup
) -> tuple[Denoiser, list[nn.Module]]:
    """Open a network of the first rank; WorkError where other weights are there now."""
    dtype, folder = compute_repeatably(precision), Path(network.source)
    run = open_run(folder, network.checkpoint, network.weights, device, dtype, sequence)
    if run.weights_sha256 != network.sha256:
        raise WorkError(f"{folder}: other weights than those that the first rank has opened")
    return run.model, list(run.model.blocks)
