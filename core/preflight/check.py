"""The preflight check of all nodes before a submitted job trains; `cluster.preflight=false` omits it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median

from core import environment
from core.distributed import ranks
from core.distributed.outcomes import gather_to_first, on_all_ranks
from core.distributed.ranks import World
from core.errors import PEER_LOST, WorkError
from core.files import write_json
from core.preflight.facts import Facts, measure
from core.preflight.judging import Findings, judge
from core.preflight.links import measure_links
from core.progress import counted, say, size
from core.run import ends
from core.run.folder import LOGS

RECORD = "preflight.json"  # in the run's logs/


def look_over_nodes(world: World, output: Path) -> None:
    """Measure every node, report the findings, and refuse to begin on nodes that are not fit (collective).

    Only where the supervisor of a submitted job asks for it.  output: the run's folder.
    Raises WorkError on every rank; the supervisor then starts the job again without those nodes.
    """
    if not environment.wants_preflight():
        return
    started = time.perf_counter()
    ranks.on_first_rank(lambda: (output / LOGS).mkdir(parents=True, exist_ok=True))
    ranks.barrier()  # clocks are read together
    facts: Facts = on_all_ranks(lambda: measure(world, output))
    gathered = gather_to_first(replace(facts, links=measure_links(world)))
    findings, summary = ranks.on_first_rank(lambda: _judged(gathered, output, started))
    say(summary)
    for warning in findings.warnings:
        say(f"warning: preflight: {warning}")
    if findings.unfit:
        reason = "; ".join(f"{node}: {why}" for node, why in findings.unfit.items())
        is_mine = facts.node in findings.unfit
        ends.record("node" if is_mine else "peer", 1 if is_mine else PEER_LOST, f"preflight: {reason}")
        raise WorkError(f"preflight: {reason}")
    if findings.stop:
        raise WorkError(f"preflight: {findings.stop}")


def _judged(found: Sequence[Facts], output: Path, started: float) -> tuple[Findings, str]:
    """Compare all ranks and record them, on the first one; return the findings and a line about all."""
    findings = judge(found)
    taken_s = time.perf_counter() - started
    _record(output, found, findings.unfit, findings.warnings)
    return findings, _summary(found, taken_s)


def _record(output: Path, found: Sequence[Facts], unfit: dict[str, str], warnings: Sequence[str]) -> None:
    record = {"ranks": [asdict(facts) for facts in found], "unfit": unfit, "warnings": list(warnings)}
    write_json(output / LOGS / RECORD, record)


def _summary(found: Sequence[Facts], taken_s: float) -> str:
    nodes = len({facts.node for facts in found})
    speeds = [facts.flops for facts in found]
    writes = [facts.write_bytes_s for facts in found if facts.write_bytes_s is not None]
    parts = [
        f"preflight: {counted(nodes, 'node')}, {counted(len(found), 'rank')} on {found[0].device}",
        f"products {median(speeds) / 1e12:.3g} TFLOP/s (least {min(speeds) / 1e12:.3g})",
        f"disk {size(min(writes))}/s",
    ]
    if links := [facts.links["all_reduce"] for facts in found if facts.links]:
        parts.append(f"all-reduce {size(min(links))}/s")
    return f"{', '.join(parts)}; {taken_s:.1f} s"
