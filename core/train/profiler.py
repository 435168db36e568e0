"""Profiling a run: a trace of steps, memory when it ran out; and garbage collection at chosen moments."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from core.config.settings import setting
from core.distributed.ranks import World
from core.faults.out_of_memory import OutOfMemory, naming_what_does_not_fit
from core.files import temporary_name
from core.progress import say
from core.run.folder import LOGS


@dataclass(frozen=True, kw_only=True)
class ProfileConfig:
    """Settings of the profiler; none of them changes the results."""

    profile_from: int = setting(
        0, "first step of a trace for chrome://tracing; 0 = no trace", low=0, role="watch"
    )
    profile_steps: int = setting(3, "steps in the trace", unit="steps", low=1, role="watch")
    profile_ranks: int = setting(
        1, "number of ranks that write a trace, from rank 0 on", unit="ranks", low=1, role="watch"
    )
    profile_memory: bool = setting(
        False, "CUDA: record the history of allocations, to analyse running out of memory", role="watch"
    )
    collect_every: int = setting(
        100,
        "steps between garbage collections, at the same step on all ranks; 0 = Python decides",
        low=0,
        role="work",
    )


class Profiler:
    """Accompanies every step: `with profiler.step(number):`."""

    def __init__(self, folder: Path, config: ProfileConfig, world: World) -> None:
        self.folder, self.config, self._world = folder / LOGS, config, world
        self._trace: Any = None

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Surround all steps: collections happen in `step` only, and objects that exist now are exempt."""
        keeps_history = self.config.profile_memory and self._world.device.type == "cuda"
        if keeps_history:
            torch.cuda.memory._record_memory_history(max_entries=100_000)
        if self.config.collect_every:
            gc.collect()
            gc.freeze()
            gc.disable()
        try:
            yield
        except OutOfMemory:
            self._keep_memory()
            raise
        finally:
            self._end_trace(self.config.profile_from + self.config.profile_steps - 1)
            if self.config.collect_every:
                gc.enable()
                gc.unfreeze()
            if keeps_history:
                torch.cuda.memory._record_memory_history(enabled=None)

    @contextlib.contextmanager
    def step(self, number: int) -> Iterator[None]:
        """Surround step `number` (1, 2, ...)."""
        first, last = self.config.profile_from, self.config.profile_from + self.config.profile_steps - 1
        if first == number and self._world.rank < self.config.profile_ranks:
            self._trace = torch.profiler.profile()
            self._trace.start()
        with naming_what_does_not_fit(f"step {number}", self._world.rank):
            yield
        if number == last:
            self._end_trace(number)
        if self.config.collect_every and number % self.config.collect_every == 0:
            gc.collect()

    def _end_trace(self, last: int) -> None:
        if self._trace is None:
            return
        trace, self._trace = self._trace, None
        trace.stop()
        path = self.folder / f"trace-step-{self.config.profile_from}-to-{last}-rank-{self._world.rank}.json"
        temporary = temporary_name(path)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            trace.export_chrome_trace(str(temporary))
            temporary.replace(path)
        except OSError as error:
            say(f"warning: no trace, since {path} cannot be written: {error.strerror}")
            temporary.unlink(missing_ok=True)
        else:
            say(f"trace: {path}")

    def _keep_memory(self) -> None:
        """Write the allocations for https://pytorch.org/memory_viz, where their history was kept."""
        if self.config.profile_memory and self._world.device.type == "cuda":
            self.folder.mkdir(parents=True, exist_ok=True)
            path = self.folder / f"memory-rank-{self._world.rank}.pickle"
            torch.cuda.memory._dump_snapshot(str(path))
            say(f"memory at the failure: {path}")
