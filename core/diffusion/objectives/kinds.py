"""The kinds of objectives: what each is defined for, and by which solver its runs are sampled."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

from core.config.values import any_of
from core.diffusion.paths.path import PathName
from core.diffusion.predictions import Prediction
from core.diffusion.solvers.kinds import SolverName
from core.errors import UserError

ObjectiveKind = Literal["denoising", "mean_flow", "consistency", "distillation"]


@dataclass(frozen=True)
class Kind:
    """An objective.

    paths, predictions: those that it is defined for; () is all.  solver: by which its runs are sampled where
    the sampler leaves it to the run; None is the sampler's own.  beside: evaluations of the network in a step
    that have no gradient, those of a teacher of its size too.
    """

    paths: tuple[PathName, ...] = ()
    predictions: tuple[Prediction, ...] = ()
    solver: SolverName | None = None
    beside: int = 0

    def require(self, name: str, path: PathName, prediction: Prediction) -> None:
        """Raise UserError for a path or a prediction that the objective `name` is not defined for."""
        for field, value, known in (("path", path, self.paths), ("prediction", prediction, self.predictions)):
            if known and value not in known:
                raise UserError(field, value, f"{any_of(list(known))} with kind={name}")


# The data must be what it is at no noise, whatever the network says: these predictions leave x_t there.
_TO_DATA = Kind(("rectified_flow", "edm", "variance_exploding"), ("flow", "v", "edm"), "renoise", beside=1)
KINDS: dict[ObjectiveKind, Kind] = {
    "denoising": Kind(),
    "mean_flow": Kind(("rectified_flow",), ("flow",), "mean_flow"),
    "consistency": _TO_DATA,
    "distillation": replace(_TO_DATA, beside=3),
}
