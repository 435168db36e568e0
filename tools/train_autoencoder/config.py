"""Configuration of the job `train-autoencoder`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from core.averages.ema import EmaConfig
from core.config.settings import REQUIRED, setting
from core.engine.config import EngineConfig
from core.errors import UserError
from core.memory.choices import kept_defaults
from core.metrics.rows import MetricsConfig
from core.optim.groups import OptimizerConfig
from core.run.claim import begun_with
from core.train.config import TrainerConfig, require_effect
from data.loading.pixels import PixelConfig
from models.autoencoder.interface import AutoencoderConfig
from models.autoencoder.kinds import DEFAULT, KINDS


@dataclass(frozen=True, kw_only=True)
class ReconstructionConfig:
    """The loss of the autoencoder."""

    squared: float = setting(1.0, "weight of the squared error per pixel", low=0)
    absolute: float = setting(0.0, "weight of the absolute error per pixel", low=0)
    kl: float = setting(
        1e-4,
        "weight of the KL divergence from a standard normal, per latent number; larger values give "
        "smoother latents",
        unit="1/nat",
        low=0,
    )

    def __post_init__(self) -> None:
        if self.squared == self.absolute == 0:
            raise UserError("squared", 0, "more than 0, or absolute more than 0")


@dataclass(frozen=True, kw_only=True)
class Config:
    """One training run of an autoencoder."""

    job: ClassVar[str] = "train-autoencoder"

    source: str = setting(REQUIRED, "raw dataset, as `shard` writes it", shown="path or URL", role="place")
    output: str = setting(
        REQUIRED, "run folder; the result is in its autoencoder/", shown="path", role="place"
    )
    seed: int = setting(0, "seed of the weights, the order of samples and every draw", low=0, high=2**63 - 1)
    overwrite: bool = setting(
        False,
        "start anew, removing the earlier run in the output; a job that is requeued or restarted continues",
        role="work",
    )
    processes: int = setting(1, "ranks on this machine", low=1, role="work")
    initial: str = setting(
        "",
        "start a new run from the weights of a run, a checkpoint or a saved autoencoder: its main "
        "average, or what follows @ (raw: the weights of the step itself)",
        shown="path[@AVERAGE]",
        role="place",
    )
    model: AutoencoderConfig = setting(DEFAULT, "the network", kinds=KINDS)
    objective: ReconstructionConfig = setting(ReconstructionConfig(), "training objective")
    data: PixelConfig = setting(
        PixelConfig(part="train"), "composition of a step, and which samples are held out"
    )
    optimizer: OptimizerConfig = setting(OptimizerConfig(), "how weights are updated")
    engine: EngineConfig = setting(EngineConfig(), "how ranks share the work")
    ema: EmaConfig = setting(EmaConfig(decay=0.999), "averages of the weights; the first is the result")
    trainer: TrainerConfig = setting(TrainerConfig(), "length of the run, and its checkpoints")
    metrics: MetricsConfig = setting(MetricsConfig(), "what is reported")
    score_samples: int = setting(
        256, "largest number of held-out samples to score in each bucket", low=1, role="watch"
    )

    @classmethod
    def implied(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """Return the defaults of a command that continues a run: the engine and order that it began with."""
        return {"engine": kept_defaults(given, cls.job)} | begun_with(given, cls, "data.shuffle_piece")

    def __post_init__(self) -> None:
        require_effect(self.trainer, self.optimizer, self.ema)
        if self.data.part != "train":
            raise UserError("data.part", self.data.part, "train: the score is that of held-out samples")
        if self.model.moments == 1 and self.objective.kl:
            expected = f"0, since model.kind={self.model.kind} gives codes and no posterior"
            raise UserError("objective.kl", self.objective.kl, expected)
        for name, usual in (
            ("sequence_parallel", 1),
            ("activation_checkpointing", "none"),
            ("compile", False),
        ):
            value = getattr(self.engine, name)
            if value not in (usual, "auto"):
                shown = str(usual).lower()
                raise UserError(f"engine.{name}", value, f"{shown}; only transformers can do this")
