"""The plain kind of step: one network and one loss, which may have parameters of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from core.averages.ema import Ema, EmaConfig
from core.engine.engine import Engine
from core.engine.network import MAIN, Network
from core.losses import Objective
from core.train.step import Stepper, Turn

OBJECTIVE = "objective"
"""The network that is made of the parameters of an objective."""


class SingleStepper(Stepper):
    """Minimises an objective.

    ema: which averages of the weights are kept, None is none.
    own: the objective's own parameters, if it has any: a network beside the main one, updated by the same
    loss, saved and continued with it, and neither averaged nor taken for the network by whoever reads the
    run.
    own_steps: how many steps update it; None is all.  validated: the loss of validation, where that is
    another one.
    """

    def __init__(
        self,
        engine: Engine,
        objective: Objective,
        ema: EmaConfig | None = None,
        own: Engine | None = None,
        *,
        own_steps: int | None = None,
        validated: Objective | None = None,
    ) -> None:
        self.engine, self.objective = engine, objective
        self._own_steps, self._validated = own_steps, validated or objective
        self.networks = {MAIN: Network(engine, Ema(ema, engine.masters) if ema else None)}
        if own is not None:
            self.networks[OBJECTIVE] = Network(own)

    @property
    def validated(self) -> Objective:  # type: ignore[override]
        """Return the loss of validation."""
        return self._validated

    def turns(self, step_index: int) -> Sequence[Turn]:
        """Return the same turn for every step, but for what is no longer updated by it."""
        is_joined = self._own_steps is None or step_index < self._own_steps
        joined = tuple(name for name in self.networks if name != MAIN and is_joined)
        return (Turn(MAIN, partial(self.objective.loss, self.engine), joined),)
