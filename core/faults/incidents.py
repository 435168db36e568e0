"""Incidents: failed steps, recorded in `incidents.jsonl`, and the run's response to them.

A step with a non-finite gradient is skipped. After too many in a row the run stops, or goes back to its
last checkpoint and passes over every step from there to the last bad one (as in PaLM, arXiv:2204.02311,
section 5.1): repeating is exact, so to pass over fewer would lead to the same weights. Steps are numbered
as in `metrics.jsonl`, by steps done.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from core.config.settings import setting
from core.distributed import ranks
from core.distributed.ranks import World
from core.engine.network import MAIN
from core.errors import WorkError
from core.faults.failpoints import failpoint
from core.faults.spikes import SpikeGuard
from core.metrics.record_writer import RecordWriter
from core.progress import counted, say
from core.run.folder import INCIDENTS


@dataclass(frozen=True, kw_only=True)
class IncidentConfig:
    """The response to gradients that are not finite, or far larger than before."""

    max_skipped: int = setting(
        20, "consecutive steps with a non-finite gradient that end the run", low=1, role="work"
    )
    on_skipped: Literal["stop", "rollback"] = setting(
        "stop",
        "what happens then: end the run, or roll back to the last checkpoint and skip the steps since",
        role="work",
    )
    max_rollbacks: int = setting(
        2, "rollback: largest number of rollbacks in the whole run", low=1, role="work"
    )
    spike_sigma: float = setting(
        6.0, "clip gradients at the usual log norm plus this many standard deviations; 0 = off", low=0.0
    )


class Incidents:
    """Counts, decides and records; every rank holds one, and rank 0 writes.

    skipped: steps in which an update was skipped so far.  passed_over: steps that are not tried.
    rollbacks: how often the run went back.
    clipping: the largest norm that the next gradient of each network may keep; 0 is any. It changes with
    each norm, and is kept rather than gathered in every step.
    """

    def __init__(
        self, folder: Path, config: IncidentConfig, clipping: Mapping[str, float], world: World
    ) -> None:
        """clipping: the largest norm that a gradient may keep, of each network."""
        self.path, self.config, self._world = folder / INCIDENTS, config, world
        self.record_file = RecordWriter(self.path)
        self._guards = {name: SpikeGuard(config.spike_sigma, most) for name, most in clipping.items()}
        self.clipping = {name: guard.clipping for name, guard in self._guards.items()}
        self._in_a_row = dict.fromkeys(clipping, 0)
        self.skipped = self.rollbacks = 0
        self.passed_over: set[int] = set()

    def open(self, state: Mapping[str, Any] | None) -> None:
        """Continue from a checkpoint's state and the record on disk (collective).

        Steps passed over since that checkpoint stay so, and rows that call a machine corrupt. Other rows
        beyond it will come again and are dropped.
        """
        step = state["step"] if state else 0
        if state:
            self._load(state)
            self.rollbacks = state.get("rollbacks", 0)
        counted_all = state is None or "rollbacks" in state  # an earlier version left them to the record
        read = functools.partial(self.record_file.beyond, step if counted_all else 0)
        for row in ranks.on_first_rank(read):
            if row.get("kind") == "rollback":
                self._pass_over(_step_of(row, "first"), _step_of(row, "last"))
        if self._world.rank == 0:
            self.record_file.rewind(step, self._stays)

    def _load(self, state: Mapping[str, Any]) -> None:
        self.skipped = state["skipped"]
        self.passed_over |= set(state["passed_over"])
        for name, guard in self._guards.items():
            part = state["gradients"][name] if name else state
            self._in_a_row[name] = part["skipped_in_a_row"]
            guard.load(part["log_norm"])
            self.clipping[name] = guard.clipping

    def _stays(self, row: Mapping[str, Any]) -> bool:
        return row.get("step") in self.passed_over or row.get("kind") == "corrupt"

    def state(self) -> dict[str, Any]:
        """Return the entries of a checkpoint; those of networks other than the main one under `gradients`."""
        parts = {
            name: {"skipped_in_a_row": self._in_a_row[name], "log_norm": guard.state()}
            for name, guard in self._guards.items()
        }
        main = parts.pop(MAIN)
        return {
            "skipped": self.skipped,
            "skipped_in_a_row": main["skipped_in_a_row"],
            "rollbacks": self.rollbacks,
            "passed_over": sorted(self.passed_over),
            "log_norm": main["log_norm"],
            **({"gradients": parts} if parts else {}),
        }

    @property
    def in_a_row(self) -> int:
        """Return how many updates in a row were last skipped, of the network with the most."""
        return max(self._in_a_row.values())

    def applied(self, step: int, network: str, norm: float) -> None:
        """Record an update with this gradient norm; a spike becomes an incident."""
        self._in_a_row[network] = 0
        guard, limit = self._guards[network], self.clipping[network]
        is_spike = guard.observe(norm)
        self.clipping[network] = guard.clipping
        if is_spike:
            whose = f" of {network}" if network else ""
            say(
                f"warning: step {step} had a gradient{whose} of norm {norm:.3g}, far above the usual: "
                "clipped harder"
            )
            row = {"kind": "spike", "step": step, "grad_norm": norm, "clipped_to": limit}
            self._record(row | ({"network": network} if network else {}))

    def note_skipped(self, step: int, networks: Sequence[str], found: list[dict[str, Any]]) -> None:
        """Record a step in which updates of `networks` were skipped, and the result of `find_nonfinite`."""
        self.skipped += 1
        for network in networks:
            self._in_a_row[network] += 1
        first = found[0]
        module, direction = first["module"], first["pass"]
        whose = f" of {first['network']}" if "network" in first else ""
        named = [f"{s['id']} of {s['source']}" if "source" in s else str(s["id"]) for s in first["samples"]]
        samples = f"samples {', '.join(named[:4])}"
        count = first.get("of_ranks", len({one["rank"] for one in found}))
        others = f", and on {counted(count - 1, 'other rank')}" if count > 1 else ""
        where = f"first in the {direction} pass of {module}{whose}, rank {first['rank']}, {samples}{others}"
        if not module:  # then it is not known which rank it was
            some = f"those of {len(found)} of {count} ranks" if "of_ranks" in first else "its samples"
            where = f"but were when it was repeated; {some} are in {self.path}"
        say(f"warning: step {step} was skipped on all ranks: its gradients are not finite ({where})")
        self._record({"kind": "skipped", "step": step, "culprits": found})

    @property
    def too_many(self) -> bool:
        """Return whether so many updates in a row were skipped that the run must do more than skip."""
        return self.in_a_row >= self.config.max_skipped

    @property
    def may_save(self) -> bool:
        """Return whether a checkpoint made now would be one to go back to."""
        return self.config.on_skipped == "stop" or self.in_a_row == 0

    def stop(self, step: int, why: str = "") -> WorkError:
        """Return the error that ends the run."""
        return WorkError(
            f"{self.in_a_row} steps in a row had non-finite gradients, up to {step}{why}; see {self.path}"
        )

    def corrupt(self, step: int, found: list[dict[str, Any]]) -> WorkError:
        """Record what `CorruptionCheck.find` found before step `step`; return the error that ends the run."""
        self._record({"kind": "corrupt", "step": step, "ranks": found})
        first = found[0]
        return WorkError(
            f"rank {first['rank']}: {', '.join(first['what'])} {first['how']}, found before step {step}: do "
            f"not trust its machine, nor checkpoints since the check before; see {self.path}"
        )

    def tracker_failed(self, step: int, tracker: str, reason: str) -> None:
        """Record that a tracker, which showed the run elsewhere, has ended; the terminal has said so."""
        self._record({"kind": "tracker", "step": step, "tracker": tracker, "reason": reason})

    def require_rollback(self, step: int) -> None:
        """Raise WorkError unless the run is to go back now."""
        if self.config.on_skipped == "stop":
            raise self.stop(step)
        if self.rollbacks >= self.config.max_rollbacks:
            raise self.stop(step, f" after {self.rollbacks} rollbacks")

    def roll_back(self, state: Mapping[str, Any], step: int) -> None:
        """Take a checkpoint's state on, and pass over what follows it up to `step`."""
        first = state["step"] + 1
        self._load(state)
        self._pass_over(first, step)
        say(f"warning: back to step {state['step']}; steps {first} to {step} are passed over")
        self._record({"kind": "rollback", "step": step, "first": first, "last": step})
        failpoint("rollback.recorded")

    def _pass_over(self, first: int, last: int) -> None:
        self.passed_over |= set(range(first, last + 1))
        self.rollbacks += 1

    def _record(self, row: dict[str, Any]) -> None:
        if self._world.rank == 0:
            self.record_file.append([row])
            self.record_file.sync()


def _step_of(row: Mapping[str, Any], name: str) -> int:
    """Return the step of a row of the record; WorkError where it has none."""
    value = row.get(name)
    if type(value) is not int or not 0 <= value < 2**63:
        raise WorkError(f"{INCIDENTS}: a rollback after step {row.get('step')} does not say its {name} step")
    return value
