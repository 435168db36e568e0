"""Configuration of the job `export`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from core.config.settings import REQUIRED, setting
from core.errors import UserError
from tools.cards.config import CardConfig

LARGEST = 5_000_000_000  # bytes, as other libraries cut weights


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which weights to write, and where."""

    job: ClassVar[str] = "export"

    source: str = setting(REQUIRED, "folder of a training run", shown="path")
    output: str = setting(REQUIRED, "new folder, or an earlier export with overwrite=true", shown="path")
    overwrite: bool = setting(False, "replace an earlier export")
    format: Literal["safetensors", "diffusers"] = setting(
        "safetensors",
        "safetensors: plain weights, which `sample` also takes; diffusers: the folder of a DiTPipeline "
        "or, for a network that this cannot hold, plain weights with a pipeline of their own",
    )
    checkpoint: str = setting("", "name of a checkpoint of the run; '' is the newest")
    weights: str = setting(
        "ema", "ema: the main average; raw: those of the step itself; or an average's name"
    )
    ema_sigma: float = setting(
        0.0, "instead of weights: the average of this relative length; 0 = none", low=0.0, high=0.288
    )
    dtype: Literal["fp32", "bf16", "fp16"] = setting(
        "fp32", "number format of the trained weights in the file"
    )
    largest_file: int = setting(
        LARGEST,
        "size above which weights are split into several files with an index; a tensor is never split",
        unit="bytes",
        low=1,
    )
    card: CardConfig = setting(CardConfig(), "additions to README.md, the model card")
    processes: int = setting(1, "not used: one process writes", low=1)

    def __post_init__(self) -> None:
        if self.ema_sigma and self.weights != "ema":
            raise UserError("weights", self.weights, "ema with ema_sigma, which chooses the weights itself")
        if self.format == "diffusers":
            for name, usual in (("ema_sigma", 0.0), ("dtype", "fp32")):
                if (value := getattr(self, name)) != usual:
                    raise UserError(name, value, f"{usual} with format=diffusers")
