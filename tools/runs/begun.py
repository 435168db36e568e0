"""The beginning of a run from other weights: what it takes and records, and how it recognises them again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from torch import nn

from core.distributed import ranks
from core.errors import UserError
from core.files import write_json_once
from core.progress import say
from core.run.changes import Content, changes
from core.run.claim import INITIAL_FIELD, job_of
from core.run.folder import INITIAL
from models.transfer import Transfer
from models.weights import fingerprint
from tools.runs.initial import Beginner, Initial, find_initial, initial_of, read_record

NOTHING = "random"  # in place of a hash, for a run that begins from no other
SHOWN = 8  # settings in a line
NONE: Mapping[str, str] = MappingProxyType({})


class StartingPoint(NamedTuple):
    """Weights that a run begins from, and lines on the settings in which it differs from their run."""

    initial: Initial
    differing: list[str]


def starting_point(config: Beginner, *, claimed: bool) -> StartingPoint | None:
    """Return what a run begins from, as `initial_of` does."""
    initial = initial_of(config, claimed=claimed)
    return None if initial is None else StartingPoint(initial, _differing_settings(initial, config))


def _differing_settings(initial: Initial, config: Any) -> list[str]:
    """Say which settings that decide a result differ from those of the run that the weights are of."""
    if job_of(initial.run) is None:
        return []
    reported = (INITIAL_FIELD, "latents.normalise")  # on a line of their own
    found = [c for c in changes(initial.recorded, config) if c.role == "result" and c.path not in reported]
    shown = [f"{change.path}={change.now} ({change.before} there)" for change in found[:SHOWN]]
    more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
    return [f"other settings than there: {', '.join(shown)}{more}"] if found else []


def begin_from(
    initial: Initial, transfer: Transfer, model: nn.Module, output: Path, accepted: Mapping[str, str] = NONE
) -> None:
    """Load the weights into the first rank's network, which the engine then broadcasts to all (collective).

    Of a network without weights each rank will read what it keeps, once the first one has verified all.
    accepted: in what the runs differ although weights depend on it.
    UserError where they are not those that the output was begun with, WorkError where they are damaged.
    """

    is_deferred = any(parameter.is_meta for parameter in model.parameters())

    def begin() -> None:
        state = initial.open()
        transfer.require_state(state, str(initial.chosen))
        record = {**describe(initial, fingerprint(state)), **transfer.record(), "accepted": dict(accepted)}
        write_json_once(output / INITIAL, record)
        kept = read_record(output)
        assert kept is not None
        if kept["sha256"] != record["sha256"]:
            was, now = kept["sha256"][:12], record["sha256"][:12]
            expected = f"the weights {was}, with which {output} was begun; {initial.chosen} holds {now}"
            raise UserError(INITIAL_FIELD, initial.text, f"{expected}; overwrite=true starts over")
        if not is_deferred:
            transfer.apply(model, state)
        say(f"{output} begins from {initial.origin} ({record['sha256'][:12]})")

    ranks.on_first_rank(begin)
    if is_deferred:
        transfer.defer(model, initial.open(is_verified=True))


def describe(initial: Initial, sha256: str) -> dict[str, Any]:
    """Return the weights' source: the run or export, the checkpoint ("" for none), its step, which weights.

    sha256: as `models.weights.fingerprint` gives it.
    """
    within_run = initial.run != initial.chosen
    return {
        INITIAL_FIELD: initial.text,
        "run": str(initial.run),
        "checkpoint": initial.chosen.name if within_run else "",
        "step": initial.step,
        "weights": initial.weights,
        "average": initial.average,
        "sha256": sha256,
    }


def describe_record(run: Path) -> list[str]:
    """Say what a run, or an export of it, began from; nothing for one that began at random."""
    if (record := read_record(run)) is None:
        return []
    of = f" of step {record['step']}" if record.get("step") is not None else ""
    what = f"the {record['weights']} weights{of} of {record.get('run')}"
    return [f"began from {what} ({record['sha256'][:12]})"]


def initial_content(output: Path, text: str, job: str) -> tuple[Content, Content]:
    """Return the place `initial` of a run: the recorded hash of weights, and that of those there now."""
    record = read_record(output)
    recorded = NOTHING if record is None else record["sha256"]
    found = fingerprint(find_initial(text, job, output).load()) if text else NOTHING
    return {"weights": recorded}, {"weights": found}
