"""The path of a run with its parameters, which `latents.json` keeps: the rates of a file among them, and
the density of its times."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.diffusion.amplification import unsampled
from core.diffusion.objectives.config import ObjectiveConfig
from core.diffusion.paths.config import PathRecord, path_record, read_rates
from core.diffusion.paths.kinds import make_path
from core.diffusion.time_density import read_density
from core.distributed import ranks
from core.errors import UserError, below
from core.files import fingerprint
from core.run.folder import LATENTS
from tools.runs.space_record import read_space

SCHEDULE = "schedule"  # in latents.json; runs of earlier versions have the published parameters
RATES_FIELD = "objective.schedule.betas"
TIMES = "times"  # in latents.json: densities read from a file, None for a run without
DENSITY_FIELD = "objective.timesteps.density"


def require_files(objective: ObjectiveConfig, run: Path | None) -> list[str]:
    """Raise UserError for a file of rates or of densities that a run cannot begin, or go on, with.

    run: the folder that holds what it was begun with, if anything; None begins anew.
    Returns a warning where no sample could start from the end of the path.
    """
    _settled_density(objective.timesteps.density, run)
    why = unsampled(make_path(_settled(objective, run)))
    return [f"warning: objective.path={why}"] if why else []


def settle_path(objective: ObjectiveConfig, run: Path) -> PathRecord:
    """Return the path of a run, with the rates that it recorded, else those of the file (collective)."""
    return ranks.on_first_rank(lambda: _settled(objective, run))


def _settled(objective: ObjectiveConfig, run: Path | None) -> PathRecord:
    rates, file = run and _recorded_rates(run), objective.schedule.betas
    if run and rates is not None and file:
        was, now = rates_content(run, file)
        if was != now:
            expected = f"the rates with which {run} was begun; the file holds others now"
            raise UserError(RATES_FIELD, file, expected)
    with below("objective.schedule"):
        return path_record(objective.path, objective.schedule, tuple(rates) if rates else None)


def rates_content(run: Path, file: str) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Return the hash of the rates that a run recorded, and of those that the file holds now.

    A file that is gone is not missed, since the run holds its rates.
    """
    recorded = _recorded_rates(run)
    kept = None if recorded is None else {"rates": fingerprint(recorded)}
    if kept is not None and not Path(file).exists():
        return kept, kept
    with below("objective.schedule"):
        return kept, {"rates": fingerprint(list(read_rates(file)))} if file else {}


def _recorded_rates(run: Path) -> list[float] | None:
    return read_space(run).get(SCHEDULE, {}).get("rates") if (run / LATENTS).is_file() else None


def settle_density(objective: ObjectiveConfig, run: Path) -> tuple[float, ...]:
    """Return the densities of times that a run recorded, else those of the file; () without (collective)."""
    return ranks.on_first_rank(lambda: _settled_density(objective.timesteps.density, run))


def _settled_density(file: str, run: Path | None) -> tuple[float, ...]:
    if not file:
        return ()
    if run:
        was, now = density_content(run, file)
        if was is not None and was != now:
            expected = f"the densities with which {run} was begun; the file holds others now"
            raise UserError(DENSITY_FIELD, file, expected)
    with below("objective.timesteps"):
        return tuple((run and _recorded_density(run)) or read_density(file))


def density_content(run: Path, file: str) -> tuple[dict[str, Any] | None, dict[str, Any]]:
    """Return the hash of the densities that a run recorded, and of those that the file holds now.

    A file that is gone is not missed, since the run holds them.
    """
    recorded = _recorded_density(run)
    kept = None if recorded is None else {TIMES: fingerprint(recorded)}
    if kept is not None and not Path(file).exists():
        return kept, kept
    with below("objective.timesteps"):
        return kept, {TIMES: fingerprint(list(read_density(file)))} if file else {}


def _recorded_density(run: Path) -> list[float] | None:
    return read_space(run).get(TIMES) if (run / LATENTS).is_file() else None
