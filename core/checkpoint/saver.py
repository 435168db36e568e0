"""Checkpointing during a run: when to save, who writes, and how a failed save is handled.

A save stops training only for a copy of the state in host memory. A thread on every rank then hashes and
writes (`save_thread.py`), spread over time (`checkpoint/pace.py`), and rank 0's publishes the manifest once
all receipts are in. The outcome of a save is checked before the next one and at the end, when all ranks wait
for it. A rank whose training has failed finishes the save if all others have come to their end as well; else
it leaves it, since a peer that is dead or stopped will never answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from core.checkpoint.restore import resume
from core.checkpoint.save_thread import Job, SaveThread
from core.checkpoint.snapshot import take, take_averages
from core.checkpoint.store import CheckpointStore
from core.config.settings import setting
from core.distributed import ranks, waiting
from core.engine.network import MAIN, Network, Networks
from core.errors import UserError, WorkError
from core.faults.failpoints import failpoint
from core.memory.host_memory import HostMemory
from core.progress import say
from core.run import code
from core.run.folder import AVERAGES, CHECKPOINTS
from core.run.run_lock import Attempt, RunLock
from core.run.versions import changes, versions

LEAVE_S = 5.0  # how long a rank that has failed waits for the others to report that they have, too


@dataclass(frozen=True, kw_only=True)
class SaveConfig:
    """How often to save the run, and which checkpoints to keep."""

    save_every: int = setting(
        500,
        "steps between checkpoints. A kill loses at most this many steps, plus those done since the start"
        " of a write that was still under way",
        unit="steps",
        low=1,
        role="work",
    )
    keep_last: int = setting(2, "how many of the newest checkpoints to keep", low=1, role="work")
    keep_every: int = setting(
        0, "also keep the checkpoints at multiples of this; 0 = none", unit="steps", low=0, role="work"
    )
    max_failed_saves: int = setting(
        3, "consecutive failed saves (such as a full disk) that end the run", low=1, role="work"
    )
    save_async: bool = setting(
        True,
        "write from a copy of the state in host memory while training continues; false: training waits "
        "for the write, and a kill loses at most save_every steps",
        role="work",
    )
    save_spread: float = setting(
        0.25,
        "save_async: largest share of the time between saves over which a write is spread",
        low=0.0,
        high=0.9,
        role="work",
    )


class Saver:
    """The checkpoints of one attempt at a run; every method is collective.

    record: entries of every state.json that do not change during the run.
    identity: what a checkpoint must agree with to be continued (seed, fingerprints of data and encoder).
    """

    def __init__(
        self,
        folder: Path,
        networks: Networks,
        config: SaveConfig,
        *,
        identity: Mapping[str, Any],
        record: Mapping[str, Any],
    ) -> None:
        self.store = CheckpointStore(folder / CHECKPOINTS)
        self._lock = RunLock(folder)
        self._networks, self._config, self._world = networks, config, networks[MAIN].engine.world
        self._identity, self._record = dict(identity), dict(record)
        self._averages = CheckpointStore(folder / AVERAGES)
        self._failures = 0
        self._attempt: Attempt | None = None
        self._memory = HostMemory() if config.save_async else None
        self._thread = SaveThread(
            spread=config.save_spread,
            may_publish=self._lock.check,
            tidy=self._tidy,
            timeout_s=min(network.engine.config.timeout_s for network in networks.values()),
        )

    def open(self) -> dict[str, Any] | None:
        """Take the run over and load its newest whole checkpoint; return the state, None for a fresh run."""
        self._attempt = ranks.on_first_rank(self._lock.acquire)
        state = resume(self.store, self._networks)
        if state and (other := changes(state["versions"])):
            say(f"warning: {other}: the run continues as before to rounding, not to the bit")
        if state and (before := code.read(state.get("code"))) not in (None, self._attempt.code):
            say(f"warning: continuing with {self._attempt.code}; the checkpoint was made with {before}")
        for name, value in self._identity.items() if state else []:
            before = state["identity"].get(name) if state else None
            if before != value:
                raise UserError(name, value, f"{before}, as in the checkpoint this run would continue")
        return state

    @property
    def attempt(self) -> Attempt:
        """Return this attempt at the run, once it is open."""
        assert self._attempt is not None, "open() comes first"
        return self._attempt

    def require_owner(self) -> None:
        """Raise WorkError where a newer attempt has taken the run over; asked on rank 0."""
        self._lock.check()

    def silence(self) -> float | None:
        """Return the seconds since the save under way last made progress here; None where there is none."""
        return self._thread.silence()

    @property
    def longest_s(self) -> float:
        """Return how long the longest save on this rank took, or would have taken unspread."""
        return self._thread.longest_s

    def due(self, step: int) -> bool:
        """Return whether a checkpoint or copies of averages are due after `step` steps."""
        return self._checkpoint_due(step) or bool(self._averages_due(step))

    def save(self, counters: Mapping[str, Any], *, required: bool, unwritten: str = "") -> None:
        """Begin to write what is due, once the save begun before is on disk.

        required: the last save of a run; it is a checkpoint, and on disk when this returns.
        unwritten: rows that a checkpoint would count as done and the disk does not have, the same on all
        ranks; then nothing is written, and the save has failed.
        """
        self.finish()
        if unwritten:
            self._note_failure(unwritten, required)
            return
        step, state = counters["step"], {**counters, **self._state()}
        jobs: list[Job] = []
        if required or self._checkpoint_due(step):
            jobs.append((self.store, take(self._networks, state, self._memory)))
        if copied := self._averages_due(step):
            jobs.append((self._averages, take_averages(copied, state)))
        waits = required or self._memory is None
        self._thread.begin(jobs, self.attempt, waited_for=waits)
        if waits:
            self.finish(required=required)

    def finish(self, *, required: bool = False) -> None:
        """Wait until no save is under way, and handle its outcome.

        A failure (a full disk) is reported and the run goes on, until there are too many in a row or the save
        was `required`; then WorkError on all ranks. A newer attempt that has taken the run over is a
        WorkError too.
        """
        pending = self._thread.hand_over()
        problem = pending.result() if pending else ""
        if problem:
            ranks.on_first_rank(self._lock.check)
            self._note_failure(problem, required)
        elif pending:
            self._failures = 0

    def close(self) -> None:
        """Finish a save that is under way (its snapshot is whole), and record that this attempt has ended.

        Training has failed if one is under way, here and perhaps elsewhere: within LEAVE_S all ranks say so,
        or this one leaves.
        """
        pending = self._thread.hand_over()
        if self._attempt is None:
            return
        end = f"end {self._attempt.token}"
        waiting.arrive(end)
        if pending and not pending.done() and not waiting.all_arrived(end, LEAVE_S):
            say("warning: the last save is given up, since not all ranks have come to their end")
        elif pending and (problem := pending.exception() or pending.result()):
            say(f"warning: the last save failed: {problem}")
        if self._world.rank == 0:
            self._lock.release()

    def _note_failure(self, problem: str, required: bool) -> None:
        self._failures += 1
        limit = self._config.max_failed_saves
        if required or self._failures >= limit:
            raise WorkError(problem)
        say(f"warning: {problem}; going on ({self._failures} of {limit} failures)")

    def _checkpoint_due(self, step: int) -> bool:
        return step % self._config.save_every == 0

    def _averages_due(self, step: int) -> Networks:
        """Return the networks of which copies of averages are to be written."""
        return {
            name: network
            for name, network in self._networks.items()
            if (ema := network.ema) and ema.config.widths and step % ema.config.snapshot_every == 0
        }

    def _tidy(self, store: CheckpointStore, path: Path) -> None:
        """After `path` was published, leave the hint and remove what need not be kept (rank 0)."""
        try:
            store.note(path)
        except OSError as error:
            say(f"warning: {path} is whole, but no hint to it could be written: {error}")
        failpoint("save.purge")
        if store is self.store:
            store.purge(self._config.keep_last, self._config.keep_every)
        else:
            store.purge(keep_last=1, keep_every=1)  # keep every complete one

    def _state(self) -> dict[str, Any]:
        assert self._attempt is not None
        main = _state_of(self._networks[MAIN])
        others = {name: _state_of(network) for name, network in self._networks.items() if name != MAIN}
        return {
            "updates": main.pop("updates"),
            "attempt": self._attempt.name,
            **main,
            "identity": self._identity,
            "versions": versions(),
            "code": self._attempt.code.as_dict(),
            **({"networks": others} if others else {}),
            **self._record,
        }


def _state_of(network: Network) -> dict[str, Any]:
    """Return a checkpoint's entries about a network, beside its tensors."""
    engine = network.engine
    return {
        "updates": engine.updates,
        **(network.ema.record(engine.updates) if network.ema else {"ema": []}),
        "groups": engine.group_settings(),
        "optimizer": asdict(engine.optimizer),
        "engine": asdict(engine.config),
    }
