"""Report the position of a submitted run in its queue, and what it waits for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from launch.cluster import records
from launch.cluster.listing import state_of
from launch.doctor.finding import Finding

WAITING = ("queued", "requeued")
REASONS = (  # as SLURM writes them (`man squeue`, job reason codes), and what to do
    (
        "^(Resources|Priority)$",
        "nothing is wrong: squeue --me --start says when; fewer cluster.minutes may start it sooner",
    ),
    ("^Dependency", "it waits for the job that makes its source; scontrol show job says which"),
    (
        "NodeNotAvail|NodeDown|Reserv|PartitionDown|PartitionInactive|^Nodes_required",
        "nodes are away or reserved: sinfo -R says why",
    ),
    ("^BeginTime$", "SLURM holds a requeued job back for two minutes"),
    ("JobHeld|launch_failed_requeued_held", "it is held: scontrol release with the number of the job"),
    (
        "Limit|^QOS|^Assoc|MaxJob|Grp",
        "a limit of the account or the partition: fewer cluster.nodes or cluster.minutes, or other ones",
    ),
)


def of_submission(run: Path) -> Iterator[Finding]:
    """Yield the state of the run's last submission; nothing of a run that was never submitted."""
    if not records.submissions(run):
        return
    state, reason = state_of(records.latest(run))
    if state in WAITING:
        yield Finding("queue", f"{state}: {reason or 'no reason is given'}", "note", _until(reason))
        return
    again = f"longtake submit {run}"
    remedies = {
        "failed": f"mend what the reason says, then {again}",
        "lost": again,
        "cancelled": f"{again} continues it",
        "not queued": again,
    }
    remedy = remedies.get(state, "")
    yield Finding("job", f"{state}{f': {reason}' if reason else ''}", "note" if remedy else "ok", remedy)


def _until(reason: str) -> str:
    """Return what a waiting job waits for, and what shortens that."""
    for pattern, remedy in REASONS:
        if re.search(pattern, reason):
            return remedy
    return "squeue --me --start says when SLURM expects to start it"
