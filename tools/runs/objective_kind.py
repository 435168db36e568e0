"""Find the objective that a run was trained by, and what its network can therefore be used for."""

from __future__ import annotations

from pathlib import Path

from core.config.values import any_of
from core.config.yaml_files import read_recorded
from core.diffusion.objectives.kinds import KINDS, ObjectiveKind
from core.errors import UserError
from core.run.folder import CONFIG


def objective_kind(source: Path) -> ObjectiveKind:
    """Return the kind of objective by which a run was trained."""
    objective = read_recorded(source / CONFIG).get("objective")
    kind = objective.get("kind", "denoising") if isinstance(objective, dict) else "denoising"
    if kind not in KINDS:
        raise UserError(f"{source / CONFIG}: objective.kind", kind, any_of(list(KINDS)))
    return kind


def maps_to_data(source: Path) -> bool:
    """Return whether a run was trained to give the data at once, for which `renoise` is meant."""
    return KINDS[objective_kind(source)].solver == "renoise"
