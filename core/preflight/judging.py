"""Judge which nodes are unfit for a job: the measurements of each rank are compared with the usual rank."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from core.preflight.facts import Facts
from core.progress import size

LEAST_SPEED = 0.7  # of the usual rank's matrix product, on a GPU
LEAST_LINK = 0.25  # of the usual rank's message to the next
LEAST_WRITE = 0.1  # of the usual node's
LEAST_MEMORY = 0.9  # of the usual device's, in all
LEAST_FREE = 0.8  # of a GPU's own memory: another process holds the rest
MOST_CLOCK_S = 5.0  # leases and locks of other hosts are judged by the clock
LEAST_DISK_BYTES = 1 << 30


@dataclass(frozen=True)
class Findings:
    """unfit: nodes that must not take part, and why.  warnings: what is slow.  stop: why none can go on."""

    unfit: dict[str, str]
    warnings: tuple[str, ...]
    stop: str = ""


def judge(ranks: Sequence[Facts]) -> Findings:
    """Compare the ranks of a job. Speeds of CPUs, which others share, are not held against a node."""
    reasons: dict[str, list[str]] = defaultdict(list)
    for facts in ranks:
        reasons[facts.node] += _own_faults(facts)
        reasons[facts.node] += _unlike_usual(facts, ranks)
    unfit = {node: "; ".join(dict.fromkeys(found)) for node, found in reasons.items() if found}
    least = min(ranks, key=lambda facts: facts.disk_free_bytes)
    stop = ""
    if least.disk_free_bytes < LEAST_DISK_BYTES:
        free = size(least.disk_free_bytes)
        stop = f"{least.node} has {free} of free disk for the run, and 1 GiB is the least"
    return Findings(unfit, (*_clock_warnings(ranks), *_slow_parts(ranks)), stop)


def _own_faults(facts: Facts) -> list[str]:
    found = []
    if not facts.is_right:
        found.append(f"a matrix product on {facts.device} of rank {facts.rank} was wrong")
    if facts.device != "CPU" and facts.free_bytes < LEAST_FREE * facts.total_bytes:
        held = size(facts.total_bytes - facts.free_bytes)
        found.append(f"{facts.device} of rank {facts.rank} has {held} in use by others")
    return found


def _unlike_usual(facts: Facts, ranks: Sequence[Facts]) -> list[str]:
    """Find what is unlike most ranks; where as many have one version as another, the first rank's counts."""
    found = []
    for name in sorted({name for each in ranks for name in each.versions}):
        mine = facts.versions.get(name, "none")
        counts = Counter(each.versions.get(name, "none") for each in ranks)
        usual = counts.most_common(1)[0][0]
        if mine != usual:
            found.append(f"{name} {mine}, and {usual} on most ranks")
    devices = Counter(each.device for each in ranks).most_common(1)[0][0]
    if facts.device != devices:
        found.append(f"{facts.device}, and {devices} on most ranks")
    elif facts.device != "CPU":
        found += _slow_device(facts, ranks)
    return found


def _slow_device(facts: Facts, ranks: Sequence[Facts]) -> list[str]:
    found, where = [], f"{facts.device} of rank {facts.rank}"
    usual = median(each.flops for each in ranks)
    if facts.flops < LEAST_SPEED * usual:
        found.append(f"{where} computes at {facts.flops / usual:.0%} of the usual speed")
    memory = median(each.total_bytes for each in ranks)
    if facts.total_bytes < LEAST_MEMORY * memory:
        found.append(f"{where} has {size(facts.total_bytes)} of memory, and {size(memory)} is usual")
    return found


def _clock_warnings(ranks: Sequence[Facts]) -> list[str]:
    usual = median(facts.clock_s for facts in ranks)
    off = {facts.node: facts.clock_s - usual for facts in ranks}
    return [f"the clock of {node} is {by:+.1f} s off" for node, by in off.items() if abs(by) > MOST_CLOCK_S]


def _slow_parts(ranks: Sequence[Facts]) -> list[str]:
    """Find slow links and disks; other jobs share them, so they are reported and make no node unfit."""
    found = []
    links = [facts.links["to_next"] for facts in ranks if facts.links]
    for facts in ranks:
        speed = facts.links.get("to_next")
        if speed is not None and speed < LEAST_LINK * median(links):
            after = ranks[(facts.rank + 1) % len(ranks)].node
            found.append(f"rank {facts.rank} sends {size(speed)}/s from {facts.node} to {after}")
    writes = [facts.write_bytes_s for facts in ranks if facts.write_bytes_s is not None]
    for facts in ranks:
        if facts.write_bytes_s is not None and facts.write_bytes_s < LEAST_WRITE * median(writes):
            found.append(f"{facts.node} writes {size(facts.write_bytes_s)}/s into the run's folder")
    return found
