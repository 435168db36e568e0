"""A look that samples from every average, shared by all ranks; what becomes of samples is its kind's.

Every random number in them is keyed by the sample, and weights, buffers and mode of the network are given
back as they were, so training draws and computes what it would without them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from core.batch import Condition
from core.distributed.sequence import data_world
from core.engine.engine import Engine
from core.engine.network import Network
from core.engine.restoring import evaluating
from core.errors import WorkError
from core.faults.failpoints import failpoint
from core.metrics.phases import Phases
from core.metrics.record_writer import RecordWriter
from core.train.looks import BrokenOff, Look
from models.denoisers.network import Example, example_inputs
from tools.preview.equal_shares import Share, shares
from tools.sample.generating import Maker, make_latents
from tools.sample.prompts import Prompts
from tools.sample.requests.schedule import Schedule

RAW = "raw"  # weights of the step itself, where a run keeps no average


@dataclass(frozen=True)
class Requested:
    """The samples of a look.  shapes: (C, T, H, W) of each form's latents.  batch: samples at once."""

    schedule: Schedule
    shapes: list[tuple[int, int, int, int]]
    prompts: Prompts | None
    batch: int

    def shares(self, network: Network) -> list[Share]:
        """Return this rank's batches: as many, of the same shapes, as every other's."""
        engine, schedule = network.engine, self.schedule
        world = data_world(engine.world, engine.config.sequence_parallel)
        return list(shares(schedule.order, schedule.stretches, self.batch, world.rank, world.size))


class SampledLook(Look):
    """Samples from each average.  maker: of the network under training, which is called through its engine.

    file: of its rows.  is_own: whether this rank is the one to answer for its samples, of those that share
    tokens.
    """

    phase = "preview"

    def __init__(self, every: int, file: Path, requested: Requested, network: Network, maker: Maker) -> None:
        engine = network.engine
        super().__init__(every, RecordWriter(file), engine.world)
        self.requested, self.maker = requested, maker
        self._engine, self._ema = engine, network.ema
        self._shares = requested.shares(network)
        self.is_own = engine.world.rank % engine.config.sequence_parallel == 0

    @abstractmethod
    def see(self, share: Share, latents: Tensor) -> Any:
        """Return what is kept of a batch of samples, padded ones included, until all are made."""

    @abstractmethod
    def outcome(
        self, step: int, average: str, seen: list[Any], problem: str, model: Watched
    ) -> dict[str, Any]:
        """Return the part of the row of an average (collective).

        seen: what `see` has returned of this rank's batches.  problem: why some are missing, or "".
        """

    def examples(self) -> list[Example]:
        """Return inputs of the network of each shape that it will see, with zeros for values."""
        requested, found = self.requested, {}
        for share in self._shares:
            shape = (len(share.samples), *requested.shapes[requested.schedule.form[share.samples[0]]])
            tokens = requested.prompts.tokens.shape[1] if requested.prompts is not None else 0
            found[shape] = example_inputs(self.maker.network, shape, self.maker.device, tokens)
        return list(found.values())

    def run(
        self, step: int, phases: Phases, broken_off: Callable[[], bool] = lambda: False
    ) -> dict[str, Any] | None:
        """Sample from each average, and write the row; a failure stands in it."""
        row: dict[str, Any] = {"step": step}
        averages: dict[str, list[Tensor] | None] = {RAW: None}
        if self._ema is not None:
            averages = dict(self._ema.averages)
        try:
            for name, weights in averages.items():
                row[name] = self._average(step, name, weights, Watched(self._engine, phases, broken_off))
        except BrokenOff:
            return None
        if self.world.rank == 0:
            self.record_file.append([row])
        return row

    def _average(self, step: int, name: str, weights: list[Tensor] | None, model: Watched) -> dict[str, Any]:
        """Make the samples of an average; return what came of them (collective)."""
        seen: list[Any] = []
        problem = ""
        with evaluating(self._engine, weights):
            for share in self._shares:
                try:
                    seen.append(self.see(share, self._latents(share, model)))
                except WorkError as error:  # an estimate that is not finite, told once all steps are done
                    problem = str(error)
                if model.is_broken_off:
                    raise BrokenOff
                failpoint("preview.batch")
        return self.outcome(step, name, seen, problem, model)

    def _latents(self, share: Share, model: Watched) -> Tensor:
        requested = self.requested
        shape = requested.shapes[requested.schedule.form[share.samples[0]]]
        maker = Maker(model, self.maker.network, self.maker.space, self.maker.device)
        return make_latents(maker, shape, share.samples, requested.schedule, requested.prompts)


class Watched:
    """The network under training, called through its engine; every call shows the watchdog that it lives.

    is_broken_off: whether the run was asked to end; samples under way come to nothing then.
    """

    def __init__(self, engine: Engine, phases: Phases, broken_off: Callable[[], bool]) -> None:
        self._engine, self._phases, self._asked = engine, phases, broken_off
        self.is_broken_off = False

    def __call__(self, x: Tensor, time: Tensor, condition: Condition) -> Tensor:
        self.alive()
        if self._asked():
            self.is_broken_off = True
            raise BrokenOff
        output: Tensor = self._engine(x, time, condition)
        return output

    def alive(self) -> None:
        """Show that this rank works."""
        self._phases.enter(self._phases.phase)
