"""The preflight check of all nodes before a submitted job trains; `cluster.preflight=false` omits it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import median

from core import environment
from core.distributed import ranks
from core.distributed.ranks import World
from core.errors import PEER_LOST, WorkError
from core.files import write_json
from core.preflight.facts import Facts, measure
from core.preflight.judging import judge
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
    facts = ranks.on_every_rank(lambda: measure(world, output))[world.rank]
    found = ranks.gather_objects(replace(facts, links=measure_links(world)))
    findings = judge(found)
    taken = time.perf_counter() - started
    if ranks.is_first():
        _record(output, found, findings.unfit, findings.warnings)
    say(_summary(found, taken))
    for warning in findings.warnings:
        say(f"warning: preflight: {warning}")
    if findings.unfit:
        reason = "; ".join(f"{node}: {why}" for node, why in findings.unfit.items())
        is_mine = facts.node in findings.unfit
        ends.record("node" if is_mine else "peer", 1 if is_mine else PEER_LOST, f"preflight: {reason}")
        raise WorkError(f"preflight: {reason}")
    if findings.stop:
        raise WorkError(f"preflight: {findings.stop}")


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
