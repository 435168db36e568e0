"""Configuration of the job `sweep`: that of `train`, which all runs share, and which runs there are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from core.config.settings import REQUIRED, setting
from core.errors import UserError
from core.queue.config import QueueConfig
from tools.plan.config import PlanConfig
from tools.sweep.plans.kinds import DEFAULT, KINDS
from tools.sweep.plans.planned import SweepConfig
from tools.sweep.resolving import RulesConfig
from tools.train.config import Config as TrainConfig


@dataclass(frozen=True, kw_only=True)
class FitConfig:
    """What `action=fit` fits, and what it predicts."""

    loss: str = setting(
        "raw",
        "which validation loss: raw, of the weights themselves, or the name of an average",
        role="watch",
    )
    target: float = setting(
        0.0,
        "budget for which size, samples and loss are predicted; 0 is that of the largest run held out of "
        "the fit, else 10 times the largest in the fit",
        unit="FLOPs",
        low=0,
        role="watch",
    )


@dataclass(frozen=True, kw_only=True)
class Config(TrainConfig):
    """A sweep: the fields of `train` are those of every run, but for what the sweep sets itself."""

    job: ClassVar[str] = "sweep"

    source: str = setting(
        "",
        "latent cache of all runs; '' only with --dry-run, where plan.samples and plan.shapes stand for it",
        shown="path or URL",
        role="place",
    )
    output: str = setting(
        REQUIRED,
        "folder that receives the ledger, a folder for each run, and the fit",
        shown="path",
        role="place",
    )
    action: Literal["run", "status", "fit"] = setting(
        "run",
        "run: do the missing runs; status: show the state of each; fit: fit the law to the finished ones",
        role="work",
    )
    retry: bool = setting(False, "repeat runs that failed", role="work")
    sweep: SweepConfig = setting(DEFAULT, "the runs of the sweep", kinds=KINDS)
    rules: RulesConfig = setting(
        RulesConfig(), "how batch size, learning rate and warm-up scale with model size and budget"
    )
    fit: FitConfig = setting(FitConfig(), "what to fit and predict")
    plan: PlanConfig = setting(
        PlanConfig(), "hardware for which costs are predicted; its ranks are `processes`, not plan.ranks"
    )
    queue: QueueConfig = setting(
        QueueConfig(attempts=1), "how processes that share the runs wait for each other"
    )

    def __post_init__(self) -> None:
        TrainConfig.__post_init__(self)
        if self.fit.loss != "raw" and self.fit.loss not in self.ema.names:
            expected = " or ".join(["raw", *self.ema.names])
            raise UserError("fit.loss", self.fit.loss, expected)
        if self.initial:
            raise UserError(
                "initial", self.initial, "'', since runs that begin from one network follow no law"
            )
