"""A sweep: what has become of its runs, and the fit to those that are done."""

from __future__ import annotations

import time

from core.config.fields import section_of
from core.config.loading import from_dict
from core.errors import UserError
from core.files import published
from core.progress import counted, duration
from core.run.folder import RUNS, SWEEP
from tools.report.output import Output
from tools.report.readers.training import QUIET_S
from tools.report.readers.trying import tried
from tools.sweep import ledger
from tools.sweep.config import FitConfig
from tools.sweep.fitted import fit
from tools.sweep.results_page import Results


def read(output: Output) -> None:
    """Fill in what the ledger says."""
    nothing: dict[str, ledger.Result] = {}
    found = tried(output, SWEEP, lambda: ledger.results(output.folder), nothing)
    before = tried(output, SWEEP, lambda: ledger.earlier(output.folder), None)
    rows, planned = list(found.values()), before["planned"] if before else []
    missing = [name for name in planned if name not in found]
    done = [row for row in rows if row["state"] == "done"]
    _state(output, len(missing), f"{len(done)} of {counted(len(planned), 'run')} done")
    for state in ("failed", "diverged"):
        if bad := [row["run"] for row in rows if row["state"] == state]:
            output.facts[state] = ", ".join(bad)
    output.facts["FLOPs of runs done"] = f"{sum(row['flops'] for row in done):.3g}"
    output.facts["hours of runs"] = f"{sum(row['seconds'] for row in rows) / 3600:.3g}"
    output.sweep = _fitted(output, rows)._replace(missing=missing)


def _fitted(output: Output, rows: list[ledger.Result]) -> Results:
    """Return the runs with the fit to them; where there is none, a line says why."""
    settings = tried(
        output, "fit", lambda: from_dict(FitConfig, section_of(output.config, "fit")), FitConfig()
    )
    if not rows:
        return Results(rows, settings.loss, [], {}, None)
    try:
        return fit(rows, settings, grid=section_of(output.config, "sweep").get("kind") == "grid")
    except UserError as error:  # most often a sweep with few runs done
        return Results(rows, settings.loss, [f"no fit yet: {error}"], {}, None)


def _state(output: Output, missing: int, state: str) -> None:
    """Note whether the sweep goes on: by the newest word of its runs, each of which has a log."""
    logs = [path.stat().st_mtime for path in published(output.folder / RUNS, "*.log")]
    age = time.time() - max(logs) if logs else None
    output.state = state
    if missing and age is not None and age < QUIET_S:
        output.state, output.running = f"{state}, last word of a run {duration(age)} ago", True
