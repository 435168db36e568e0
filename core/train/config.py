"""The settings of a run."""

from __future__ import annotations

from dataclasses import dataclass

from core.averages.ema import EmaConfig, require_updates
from core.checkpoint.saver import SaveConfig
from core.config.settings import setting
from core.errors import UserError, below
from core.faults.incidents import IncidentConfig
from core.optim.groups import OptimizerConfig, require_rise
from core.train.corruption import CorruptionConfig
from core.train.profiler import ProfileConfig


@dataclass(frozen=True, kw_only=True)
class TrainerConfig(SaveConfig, IncidentConfig, CorruptionConfig, ProfileConfig):
    """How long to train, and what to keep on the way."""

    steps: int = setting(1000, "optimizer steps of the whole run", unit="steps", low=1)
    watchdog_s: float = setting(
        600.0,
        "time without progress after which the run ends with a report of which rank waits for which; six "
        "times as long before the first step has ended; not during a save; 0 = never",
        unit="s",
        low=0,
        role="watch",
    )
    save_timeout_s: float = setting(
        3600.0,
        "the same for a save, counted from the last piece that a rank has written; 0 = never",
        unit="s",
        low=0,
        role="watch",
    )

    def __post_init__(self) -> None:
        if self.profile_from > self.steps:
            raise UserError("profile_from", self.profile_from, f"at most steps={self.steps}, or 0")


def require_effect(trainer: TrainerConfig, optimizer: OptimizerConfig, ema: EmaConfig) -> None:
    """Raise UserError for a setting that has no effect in a run of so many steps."""
    with below("optimizer"):
        require_rise(optimizer, trainer.steps)
    with below("ema"):
        require_updates(ema, trainer.steps)
