"""Train many runs of different sizes and budgets, and fit a scaling law to their losses.

A sweep file is a config of `train` with a section `sweep`, which says which runs there are: `kind: isoflop`
(sizes of the network for each budget of FLOPs, from which the steps follow) or `kind: grid` (all combinations
of values of any fields). All runs have the seed, the order of data and the validation draws in common.

`longtake sweep FILE --dry-run` shows the runs with their predicted cost. The same command without it does
those that are missing, one after another; typed again elsewhere, or submitted as an array, the processes
share them. The state of each run is in `sweep.jsonl` of the output. More budgets, sizes or values may be
added later. With `action=fit` it writes the law, its predictions, plots and a page (docs/sweeps.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from core import terminal
from core.errors import UserError, WorkError
from core.files import fingerprint
from core.progress import counted, say
from core.run.claim import claim
from core.run.folder import FIT
from launch.sweep.working import work
from tools.plan.config import PlanConfig
from tools.sweep import ledger
from tools.sweep.config import Config
from tools.sweep.resolving import SweepRun, base_of, resolve
from tools.sweep.table import lines_of, states
from tools.train.config import Config as TrainConfig
from tools.train.source import open_source

__all__ = ["Config", "plan", "run"]


def plan(config: Config) -> list[str]:
    """Show the runs with their predicted cost, and which are done."""
    output = Path(config.output)
    base = base_of(config)
    sweep = resolve(base, config.sweep, config.rules, config.plan, config.output)
    runs, found = sweep.runs, ledger.results(output)
    ledger.require_same(output, ledger.earlier(output), [each.name for each in runs], _data(base))
    return [*lines_of(sweep, config.plan, found), *states(runs, found)]


def run(config: Config) -> None:
    """Do the missing runs, show their state or fit the law, as `config.action` says."""
    output = Path(config.output)
    if config.action == "fit":
        from tools.sweep.fitted import fit_and_write

        ledger.require_planned(output, ledger.earlier(output), [each.name for each in config.sweep.runs()])
        for line in fit_and_write(output, config.fit, grid=config.sweep.kind == "grid"):
            say(line)
        return
    base = base_of(config)
    sweep = resolve(base, config.sweep, config.rules, config.plan, config.output)
    runs, found = sweep.runs, ledger.results(output)
    if config.action == "status":
        terminal.deliver("\n".join([*lines_of(sweep, config.plan, found), *states(runs, found)]))
        return
    if not config.source:
        raise UserError("source", "''", "a latent cache; without one there is only --dry-run")
    data, before = _data(base), ledger.earlier(output)

    def contents(path: str) -> tuple[dict[str, Any] | None, dict[str, Any]]:
        """Return what the ledger records of the source, which may have moved."""
        return (None if before is None or path != "source" else {"data": before["data"]}), {"data": data}

    recorded = replace(config, plan=PlanConfig(), retry=False, action="run")
    claim(output, recorded, done=FIT, overwrite=config.overwrite, contents=contents)
    ledger.begin(output, [each.name for each in runs], data)
    for line in lines_of(sweep, config.plan, ledger.results(output)):
        say(line)
    work(output, runs, config.queue, retry=config.retry)
    _tell(output, runs)


def _data(config: TrainConfig) -> str:
    """Return the fingerprint of what all runs learn from and are validated on; '' without a source."""
    if not config.source:
        return ""
    open_one = partial(open_source, run=Path(config.output), text=config.model.text_width > 0)
    found = [open_one(config.source, config.autoencoder, config.data).facts.fingerprint]
    if held_out := config.validation_source:
        alone = replace(config.data, also=(), mix=())
        found.append(open_one(held_out, "", alone, field="validation_source").facts.fingerprint)
    return fingerprint([*found, config.validation.samples, config.validation.strata])


def _tell(output: Path, runs: Sequence[SweepRun]) -> None:
    """Report the state of all runs; WorkError where one has failed."""
    found = ledger.results(output)
    for line in states(runs, found):
        say(line)
    rows = [found[each.name] for each in runs if each.name in found]
    done = sum(row["state"] == "done" for row in rows)
    say(f"{output}: {done} of {counted(len(runs), 'run')} done; next: the same command with action=fit")
    if failed := [row["run"] for row in rows if row["state"] == "failed"]:
        raise WorkError(
            f"{counted(len(failed), 'run')} failed: {', '.join(failed)}; retry=true does them again"
        )
