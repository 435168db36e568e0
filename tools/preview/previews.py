"""Previews in training: the same samples from the same noise under every average, made by all ranks together.

Every random number in them is keyed by the sample, and weights, buffers and mode of the network are given
back as they were, so training draws and computes what it would without them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from core.batch import Condition
from core.distributed import ranks
from core.distributed.sequence import data_world
from core.engine.engine import Engine
from core.engine.network import Network
from core.engine.restoring import evaluating
from core.errors import WorkError
from core.faults.failpoints import failpoint
from core.metrics.phases import Phases
from core.metrics.record_writer import RecordWriter
from core.metrics.rows import Metrics
from core.run.folder import PREVIEWED
from core.train.looks import BrokenOff, Look
from models.autoencoder.interface import AnyAutoencoder
from models.denoisers.network import Example, example_inputs
from tools.preview.equal_shares import Share, shares
from tools.preview.preview_files import PreviewFiles
from tools.sample.generating import Maker, decode, make_latents
from tools.sample.prompts import Prompts
from tools.sample.requests.schedule import Schedule

RAW = "raw"  # weights of the step itself, where a run keeps no average


@dataclass(frozen=True)
class Requested:
    """What is previewed.  shapes: (C, T, H, W) of the latents of each form.  batch: samples at once."""

    schedule: Schedule
    shapes: list[tuple[int, int, int, int]]
    prompts: Prompts | None
    batch: int


class Previews(Look):
    """Makes previews.  maker: of the network under training, which is called through its engine."""

    phase = "preview"

    def __init__(
        self,
        every: int,
        requested: Requested,
        network: Network,
        maker: Maker,
        autoencoder: AnyAutoencoder,
        files: PreviewFiles,
    ) -> None:
        engine = network.engine
        super().__init__(every, RecordWriter(files.run / PREVIEWED), engine.world)
        self._requested, self._engine, self._ema = requested, engine, network.ema
        self._maker, self._autoencoder, self._files = maker, autoencoder, files
        world = data_world(engine.world, engine.config.sequence_parallel)
        order, stretches = requested.schedule.order, requested.schedule.stretches
        self._shares = list(shares(order, stretches, requested.batch, world.rank, world.size))
        self._writes = engine.world.rank % engine.config.sequence_parallel == 0  # one of those that share

    def examples(self) -> list[Example]:
        """Return inputs of the network of each shape that it will see, with zeros for values."""
        requested, found = self._requested, {}
        for share in self._shares:
            shape = (len(share.samples), *requested.shapes[requested.schedule.form[share.samples[0]]])
            tokens = requested.prompts.tokens.shape[1] if requested.prompts is not None else 0
            found[shape] = example_inputs(self._maker.network, shape, self._maker.device, tokens)
        return list(found.values())

    def run(
        self, step: int, phases: Phases, broken_off: Callable[[], bool] = lambda: False
    ) -> dict[str, Any] | None:
        """Write the samples of each average, and a row with their paths; a failure stands in the row."""
        row: dict[str, Any] = {"step": step}
        averages: dict[str, list[Tensor] | None] = {RAW: None}
        if self._ema is not None:
            averages = dict(self._ema.averages)
        try:
            for name, weights in averages.items():
                row[name] = self._average(step, name, weights, _Watched(self._engine, phases, broken_off))
        except BrokenOff:
            return None
        if self.world.rank == 0:
            self.record_file.append([row])
        return row

    def line(self, row: dict[str, Any]) -> str:
        """Say where they are, or what failed."""
        parts = {name: part for name, part in row.items() if name != "step"}
        failed = [f"{name}: {part['failed']}" for name, part in parts.items() if "failed" in part]
        if failed:
            return f"warning: no preview after step {row['step']}, and training goes on: {'; '.join(failed)}"
        shown = ", ".join(part["overview"] for part in parts.values())
        return f"preview after step {row['step']}: {shown}"

    def show(self, row: dict[str, Any], metrics: Metrics) -> None:
        """Show the overviews, and films, in the trackers."""
        pictures: dict[str, Path] = {}
        for name, part in row.items():
            if name == "step" or "failed" in part:
                continue
            pictures[f"preview/{name}"] = self._files.run / part["overview"]
            films = [file for file in part["files"] if not file.endswith(".png")]
            pictures |= {f"preview/{name}/{n}": self._files.run / film for n, film in enumerate(films)}
        metrics.show_pictures(row["step"], pictures)

    def _average(self, step: int, name: str, weights: list[Tensor] | None, model: _Watched) -> dict[str, Any]:
        """Make the samples of an average (collective); return their paths, or why there are none."""
        made: list[tuple[Share, Tensor]] = []
        problem = ""
        with evaluating(self._engine, weights):
            for share in self._shares:
                try:
                    made.append((share, self._latents(share, model)))
                except WorkError as error:  # an estimate that is not finite, told once all steps are done
                    problem = str(error)
                if model.is_broken_off:
                    raise BrokenOff
                failpoint("preview.batch")
        try:
            written = ranks.on_every_rank(lambda: self._written(step, name, made, problem, model))
            overview = ranks.on_first_rank(lambda: self._files.draw(step, name))
        except WorkError as error:
            return {"failed": str(error)}
        return {"overview": overview, "files": sorted(file for files in written for file in files)}

    def _latents(self, share: Share, model: _Watched) -> Tensor:
        requested = self._requested
        shape = requested.shapes[requested.schedule.form[share.samples[0]]]
        maker = Maker(model, self._maker.network, self._maker.space, self._maker.device)
        return make_latents(maker, shape, share.samples, requested.schedule, requested.prompts)

    def _written(
        self, step: int, name: str, made: list[tuple[Share, Tensor]], problem: str, model: _Watched
    ) -> list[str]:
        """Decode and publish this rank's own samples; return their paths.  WorkError for `problem`."""
        if problem:
            raise WorkError(problem)
        found: list[str] = []
        with _on_device(self._autoencoder, self._maker):
            for share, latents in made if self._writes else ():
                model.alive()
                for number, pixels in zip(
                    share.samples[: share.own], self._pixels(share, latents), strict=True
                ):
                    found.append(self._files.write(step, name, int(number), pixels))
        return found

    def _pixels(self, share: Share, latents: Tensor) -> NDArray[np.uint8]:
        frames = self._requested.schedule.forms[self._requested.schedule.form[share.samples[0]]].size.frames
        normaliser = self._maker.space.normaliser
        return decode(self._autoencoder, normaliser, latents[: share.own], frames)


class _Watched:
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


@contextmanager
def _on_device(autoencoder: AnyAutoencoder, maker: Maker) -> Iterator[None]:
    """Have the decoder on the device for the block, and its memory for training after it."""
    autoencoder.to(maker.device)
    try:
        yield
    finally:
        autoencoder.to("cpu")
