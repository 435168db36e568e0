"""When checkpoints are written, by whom, and what a failed one means: the part of a run that survives it."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core import distributed
from core.checkpoint import FOLDER, CheckpointStore, resume, write_checkpoint
from core.ema import Ema
from core.engine import Engine
from core.errors import UserError, WorkError
from core.failpoints import failpoint
from core.progress import say
from core.run_lock import Attempt, RunLock
from core.settings import setting


@dataclass(frozen=True, kw_only=True)
class SaveConfig:
    """How often the run is saved and what is kept."""

    save_every: int = setting(500, "steps between checkpoints: what a kill can cost", unit="steps", low=1)
    keep_last: int = setting(2, "newest checkpoints kept", low=1)
    keep_every: int = setting(0, "also keep checkpoints at multiples of this, 0 = none", unit="steps", low=0)
    max_failed_saves: int = setting(3, "failed saves in a row (full disk) that end the run", low=1)


class Saver:
    """The checkpoints of one attempt at a run; every method is collective.

    record: what does not change during the run and goes into every state.json.
    identity: what a checkpoint must agree with to be continued (seed, fingerprints of data and encoder).
    """

    def __init__(
        self,
        folder: Path,
        engine: Engine,
        ema: Ema | None,
        config: SaveConfig,
        *,
        identity: Mapping[str, Any],
        record: Mapping[str, Any],
    ) -> None:
        self.store = CheckpointStore(folder / FOLDER)
        self._lock = RunLock(folder)
        self._engine, self._ema, self._config = engine, ema, config
        self._identity, self._record = dict(identity), dict(record)
        self._failures = 0
        self._attempt: Attempt | None = None

    def open(self) -> dict[str, Any] | None:
        """Take the run over and load its newest whole checkpoint; returns the state, None for a fresh run."""
        self._attempt = distributed.on_first_rank(self._lock.acquire)
        state = resume(self.store, self._engine, self._ema)
        for name, value in self._identity.items() if state else []:
            before = state["identity"].get(name) if state else None
            if before != value:
                raise UserError(name, value, f"{before}, as in the checkpoint this run would continue")
        return state

    def due(self, step: int) -> bool:
        """Whether a checkpoint belongs after `step` steps."""
        return step % self._config.save_every == 0

    def save(self, counters: Mapping[str, Any], *, required: bool) -> None:
        """Write a checkpoint of the present.

        A failure (a full disk) is reported and the run goes on, until there are too many in a row or this one
        is `required`; then WorkError on all ranks. So it is when a newer attempt has taken the run over.
        """
        assert self._attempt is not None, "open() comes first"
        path = self.store.new(counters["step"], self._attempt.name)
        state = {**counters, **self._state()}
        number, check = self._attempt.number, self._lock.check
        try:
            write_checkpoint(path, self._engine, self._ema, state, number=number, may_commit=check)
        except WorkError as error:
            distributed.on_first_rank(check)
            self._failures += 1
            if required or self._failures >= self._config.max_failed_saves:
                raise
            say(f"warning: {error}; going on ({self._failures} of {self._config.max_failed_saves} failures)")
            return
        self._failures = 0
        if self._engine.world.rank == 0:
            self.store.note(path)
            failpoint("save.purge")
            self.store.purge(self._config.keep_last, self._config.keep_every)

    def close(self) -> None:
        """Say in run.lock that this attempt has ended."""
        if self._engine.world.rank == 0:
            self._lock.release()

    def _state(self) -> dict[str, Any]:
        assert self._attempt is not None
        return {
            "updates": self._engine.updates,
            "attempt": self._attempt.name,
            "ema": list(self._ema.averages) if self._ema else [],
            "groups": self._engine.group_settings(),
            "optimizer": asdict(self._engine.optimizer),
            "engine": asdict(self._engine.config),
            "identity": self._identity,
            "versions": {name: _version(name) for name in ("longtake", "torch", "deepspeed")},
            **self._record,
        }


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that was never installed
        return "uninstalled"
