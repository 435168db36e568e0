"""Validation: the loss of the same samples under the same draws, every time, for the weights and averages.

Nothing in the number is random from one time to the next, so two of them differ by what was learnt. The
effect of the choice of draws itself is kept small: each sample comes `strata` times, at one noise level from
each part of the distribution of levels (stratified sampling), with noise of its own. `docs/metrics.md` says
how small that was found to be.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from core.averages.ema import Ema
from core.batch import Batch
from core.config.settings import setting
from core.distributed.ranks import sum_over_ranks
from core.draws import Draws
from core.engine.engine import Engine
from core.engine.network import Network
from core.engine.restoring import evaluating
from core.errors import UserError
from core.faults.failpoints import failpoint
from core.losses import Objective
from core.metrics.phases import Phases
from core.metrics.record_writer import RecordWriter
from core.metrics.rows import Metrics, complete_row
from core.metrics.step_sums import StepSums
from core.run.folder import VALIDATION
from core.train.looks import BrokenOff, Look

SEED = 0  # of the draws, and of which held-out samples are taken: two runs of any seeds can be compared
_STEP_INDEX = 0xFFFFFFFF  # of the draws: no training step has it


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """How often to take the loss on fixed samples, and at how many noise levels."""

    every: int = setting(0, "steps between validations; 0 = none", unit="steps", low=0, role="watch")
    samples: int = setting(
        512,
        "least number of validation samples, the same every time; a smaller set is repeated, with other "
        "noise. The choice of noise changes the loss by 0.12 to 0.28 % with the defaults "
        "(docs/metrics.md)",
        unit="samples",
        low=1,
        role="watch",
    )
    strata: int = setting(10, "evaluations per sample, at noise levels spread evenly", low=1, role="watch")
    averages: bool = setting(True, "also validate each average of the weights", role="watch")


@dataclass(frozen=True)
class StratifiedDraws(Draws):
    """Draws whose uniform "time" lies in part `stratum` of `strata` equal parts of (0, 1)."""

    stratum: int = 0
    strata: int = 1

    def uniform(self, purpose: str, shape: tuple[int, ...] = ()) -> Tensor:
        """Draw as Draws does, but for the time."""
        value = super().uniform(purpose, shape)
        return (value + self.stratum) / self.strata if purpose == "time" else value


class Validation(Look):
    """Takes the loss over this rank's part of the fixed samples; all methods are collective.

    batches: gives the same micro-batches of this rank at every call, as many and as large on every rank.
    """

    phase = "validate"

    def __init__(
        self,
        engine: Engine,
        objective: Objective,
        batches: Callable[[], Iterable[Batch]],
        config: ValidationConfig,
        *,
        folder: Path,
        ema: Ema | None = None,
        seed: int = SEED,
    ) -> None:
        super().__init__(config.every, RecordWriter(folder / VALIDATION), engine.world)
        self.config, self._engine, self._objective, self._batches = config, engine, objective, batches
        self._seed, self._ema = seed, ema

    def run(
        self, step: int, phases: Phases, broken_off: Callable[[], bool] = lambda: False
    ) -> dict[str, Any] | None:
        """Write and return the row: for the weights ("raw") and each average, loss and loss per decile.

        broken_off: asked before every batch, on all ranks alike; if true, there is no row.
        """
        try:
            row: dict[str, Any] = {"step": step, "raw": self.measure(None, phases, broken_off)}
            for name, average in self._ema.averages.items() if self._ema and self.config.averages else []:
                row[name] = self.measure(average, phases, broken_off)
        except BrokenOff:
            return None
        if self._engine.world.rank == 0:
            self.record_file.append([row])
        return row

    def measure(
        self, weights: list[Tensor] | None, phases: Phases, broken_off: Callable[[], bool] = lambda: False
    ) -> dict[str, Any]:
        """Compute loss, loss by decile and extras with these weights, None for the present ones."""
        device = self._engine.world.device
        sums = StepSums(device)
        with evaluating(self._engine, weights):
            for batch in self._batches():
                if broken_off():
                    raise BrokenOff
                batch = batch.to(device)
                for stratum in range(self.config.strata):
                    phases.enter("validate")
                    failpoint("validation.batch")
                    losses = self._objective.loss(self._engine, batch, self.draws(batch, stratum))
                    sums.add(losses, batch.weight)
        total = sum_over_ranks(sums.vector(0.0)).tolist()
        row = complete_row({"seconds": math.nan}, sums.extras, total, 1)
        kept = ("seconds", "samples", "samples_per_s", "data_wait")
        return {name: value for name, value in row.items() if name not in kept}

    def line(self, row: dict[str, Any]) -> str:
        """Format a row as `validation after step 500: raw 0.1802, 0.9999 0.1795`."""
        losses = {name: part["loss"] for name, part in row.items() if name != "step"}
        shown = (f"{name} {'not finite' if loss is None else f'{loss:.4f}'}" for name, loss in losses.items())
        return f"validation after step {row['step']}: {', '.join(shown)}"

    def show(self, row: dict[str, Any], metrics: Metrics) -> None:
        """Show the losses in the trackers."""
        losses = {f"validation/{name}": part["loss"] for name, part in row.items() if name != "step"}
        metrics.show_beside(row["step"], losses)

    def draws(self, batch: Batch, stratum: int) -> StratifiedDraws:
        """Return draws keyed by the sample and its place, so that neither ranks nor micro-batches matter.

        By the place, so that a sample which comes again, as in a set of fewer than `samples`, brings news.
        """
        position = batch.position * self.config.strata + stratum
        return StratifiedDraws(self._seed, _STEP_INDEX, batch.id, position, stratum, self.config.strata)


def make_validation(
    config: ValidationConfig | None,
    network: Network,
    objective: Objective | None,
    batches: Callable[[], Iterable[Batch]] | None,
    *,
    folder: Path,
) -> Validation | None:
    """Make the validation of a run; None where it was not asked for, or there is nothing to validate on."""
    if config is None or batches is None:
        return None
    if objective is None:
        if config.every:
            expected = "0, since this kind of step has no loss to validate"
            raise UserError("every", config.every, expected)
        return None
    return Validation(network.engine, objective, batches, config, folder=folder, ema=network.ema)


def whole_steps(load: Callable[[int], list[Batch]], samples: int, ranks: int) -> Iterator[Batch]:
    """Yield this rank's micro-batches of steps 0, 1, ... until all ranks together have `samples` samples.

    Whole steps, so that any number of ranks takes the same samples; positions count on from step to step.
    """
    taken = step_index = 0
    while taken < samples:
        before = taken
        for batch in load(step_index):
            taken += ranks * len(batch)
            yield replace(batch, position=batch.position + before)
        step_index += 1
