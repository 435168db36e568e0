"""A run's metrics: `metrics.jsonl` (the record, one row a step), the status line, and views of both
elsewhere (`trackers`).

A step leaves its losses on the device; they are added up, reduced over ranks and written every `log_every`
steps and before every checkpoint, so that logging costs a step neither a collective nor a host
synchronisation. Rows are numbered by steps done, like checkpoints. After a restart the rows beyond the
checkpoint are dropped before new ones come, so the file holds every step once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch

from core.config.settings import setting
from core.distributed.ranks import World, sum_over_ranks
from core.metrics.hardware import find_peaks
from core.metrics.phases import Phases
from core.metrics.rank_report import ALONE, Numbers, Stragglers, rank_numbers, rank_report
from core.metrics.record_writer import RecordWriter
from core.metrics.speed_probe import SpeedProbe
from core.metrics.step_sums import COLUMNS, DECILES, StepSums, vectors
from core.metrics.tensor_activity import TensorActivity
from core.metrics.trackers.kinds import KINDS, Shown
from core.metrics.trackers.showing import Trackers
from core.run.folder import METRICS


@dataclass(frozen=True, kw_only=True)
class MetricsConfig:
    """How often rows are written, and which trackers show them."""

    log_every: int = setting(10, "steps between writes of metrics rows", unit="steps", low=1, role="watch")
    log_matmul: bool = setting(
        False,
        "measure the speed of a matmul at the start, and report the run's arithmetic relative to it too",
        role="watch",
    )
    wandb: bool = setting(
        False, "also log the run to Weights & Biases (its own variables apply)", role="watch"
    )
    wandb_project: str = setting("longtake", "project there; WANDB_PROJECT takes precedence", role="watch")
    tensorboard: bool = setting(
        False, "also write event files for TensorBoard, in tensorboard/ of the run", role="watch"
    )

    @property
    def trackers(self) -> tuple[str, ...]:
        """Return the kinds of trackers that are asked for."""
        return tuple(name for name in KINDS if getattr(self, name))


class _Pending(NamedTuple):
    row: dict[str, Any]
    sums: StepSums
    waited_s: float


@dataclass
class Metrics:
    """Collects rows on every rank; rank 0 writes them. `flush` and `sync` are collective.

    data_ranks: how many ranks, or groups of ranks, hold different samples; 0 is all.  phases: of this rank;
    with it, the last row of every flush says in `ranks` how the ranks compare, by the phases in `alone`.
    peaks: name of a column -> TFLOP/s of all devices together that it relates the arithmetic to.
    failed: takes the last step written, the name of a tracker that has failed, and why.
    """

    folder: Path
    config: MetricsConfig
    world: World
    run_config: Mapping[str, Any] = field(default_factory=dict)
    data_ranks: int = 0
    phases: Phases | None = None
    alone: Sequence[str] = ALONE
    peaks: dict[str, float] = field(default_factory=dict)
    failed: Callable[[int, str, str], None] | None = None
    last_loss: float = math.nan
    _pending: list[_Pending] = field(default_factory=list)
    _stragglers: Stragglers = field(default_factory=Stragglers)
    _last_step: int = 0
    record_file: RecordWriter = field(init=False)
    _probe: SpeedProbe = field(init=False)
    _activity: TensorActivity = field(init=False)
    _shown: Trackers | None = None

    def __post_init__(self) -> None:
        self.record_file = RecordWriter(self.folder / METRICS)
        self._probe = SpeedProbe(self.world.device)
        self._activity = TensorActivity(self.world.device)

    def start(self, step: int) -> None:
        """Begin after `step` steps: drop rows of steps that will be done again."""
        self.peaks = find_peaks(self.world.device, self.world.size, self.config.log_matmul)
        self._last_step = step
        self.rewind(step)
        if self.world.rank == 0 and self.config.trackers:
            shown = Shown(self.folder, step, self.config.wandb_project, self.run_config)
            self._shown = Trackers(self.config.trackers, shown, self._note_failure)

    def rewind(self, step: int) -> None:
        """Go back to after `step` steps: their rows stay, later ones are dropped."""
        self._pending = []
        if self.world.rank == 0:
            self.record_file.rewind(step)
            if self._shown is not None:
                self._shown.rewind(step)

    def record(self, row: dict[str, Any], sums: StepSums, waited_s: float) -> None:
        """Keep a step's row (its host-side part) and its sums until the next flush."""
        self._pending.append(_Pending(row, sums, waited_s))
        if self.world.rank == 0:
            self.record_file.watch()
        if len(self._pending) >= self.config.log_every:
            self.flush()

    def flush(self) -> None:
        """Reduce and write what is pending (collective: all ranks)."""
        if not self._pending:
            return
        data_ranks = self.data_ranks or self.world.size
        parts = vectors([p.sums for p in self._pending], [p.waited_s for p in self._pending])
        mine: Numbers | None = None
        if self.phases is not None:
            self._probe.begin()
            mine = rank_numbers(self.phases, self.world, self._probe.seconds, self._activity.share())
        total = sum_over_ranks(torch.cat(parts)).cpu()
        sums = torch.split(total, [len(part) for part in parts])
        rows = []
        for pending, vector in zip(self._pending, sums, strict=False):
            vector /= self.world.size // data_ranks  # ranks that share tokens hold the same samples
            rows.append(
                complete_row(pending.row, pending.sums.extras, vector.tolist(), data_ranks, self.peaks)
            )
        if mine is not None:
            self._probe.read()  # the device has finished it, since `total` is here; the next report has it
            rows[-1]["ranks"] = rank_report(mine, self.world, self.alone)
            self._stragglers.note(rows[-1]["ranks"], rows[-1]["step"])
        self._pending = []
        self.last_loss = rows[-1]["loss"] if rows[-1]["loss"] is not None else math.nan
        if self.world.rank == 0:
            self.record_file.append(rows)
            self._last_step = rows[-1]["step"]
            if self._shown is not None:
                self._shown.show(rows)

    def note(self) -> str:
        """Return the last loss for the status line, "" while there is none."""
        return "" if math.isnan(self.last_loss) else f"loss {self.last_loss:.4f}"

    def show_beside(self, step: int, values: Mapping[str, float | None]) -> None:
        """Show further numbers of a step too, beside its row, which `flush` has written."""
        if self._shown is not None:
            self._shown.show_beside(step, values)

    def show_pictures(self, step: int, pictures: Mapping[str, Path]) -> None:
        """Show pictures (.png) and films (.mp4) by name, beside the metrics of their step."""
        if self._shown is not None:
            self._shown.show_pictures(step, pictures)

    def close(self) -> None:
        """End what shows the run; the rows were flushed with the last checkpoint."""
        if self._shown is not None:
            self._shown.close()

    def _note_failure(self, tracker: str, reason: str) -> None:
        if self.failed is not None:
            self.failed(self._last_step, tracker, reason)


def complete_row(
    row: dict[str, Any],
    extras: list[str],
    sums: list[float],
    ranks: int,
    peaks: Mapping[str, float] | None = None,
) -> dict[str, Any]:
    """Return the row as written: host-side part plus means; numbers that are not finite become null."""
    waited, table, parts = sums[0], sums[1 : 1 + 2 * COLUMNS], sums[1 + 2 * COLUMNS :]
    losses, weights = table[:COLUMNS], table[COLUMNS:]
    weight = sum(weights)
    done = dict(row, loss=_mean(sum(losses), weight), samples=weight)
    if any(weights[:DECILES]):
        pairs = zip(losses[:DECILES], weights[:DECILES], strict=True)
        done["loss_by_decile"] = [_mean(part, count) for part, count in pairs]
    done |= {name: _mean(value, weight) for name, value in zip(extras, parts, strict=True)}
    done["samples_per_s"] = weight / row["seconds"] if row["seconds"] > 0 else None
    if "tokens" in row:
        done["tokens_per_s"] = row["tokens"] / row["seconds"] if row["seconds"] > 0 else None
    if "flops" in row:
        tflops = done.pop("flops") / row["seconds"] / 1e12 if row["seconds"] > 0 else math.nan
        done |= {"tflops_per_s": tflops} | {name: tflops / peak for name, peak in (peaks or {}).items()}
    done["data_wait"] = waited / ranks / row["seconds"] if row["seconds"] > 0 else None
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in done.items()}


def _mean(total: float, weight: float) -> float | None:
    return total / weight if weight > 0 and math.isfinite(total) else None
