"""The plain kind of step: one network, one loss, one update."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from core.averages.ema import Ema, EmaConfig
from core.engine.engine import Engine
from core.engine.network import MAIN, Network
from core.losses import Objective
from core.train.step import Stepper, Turn


class SingleStepper(Stepper):
    """Minimises an objective. ema: which averages of the weights are kept, None is none."""

    def __init__(self, engine: Engine, objective: Objective, ema: EmaConfig | None = None) -> None:
        self.engine, self.objective = engine, objective
        self.networks = {MAIN: Network(engine, Ema(ema, engine.masters) if ema else None)}

    @property
    def validated(self) -> Objective:  # type: ignore[override]
        """Return the loss that is minimised, for validation."""
        return self.objective

    def turns(self, step_index: int) -> Sequence[Turn]:
        """Return the same turn for every step."""
        return (Turn(MAIN, partial(self.objective.loss, self.engine)),)
