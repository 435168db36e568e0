"""Configuration of the job `plan`: that of `train`, and what it would run on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from core.config.settings import setting
from core.errors import UserError
from core.metrics.devices import NAMES, by_name
from tools.train.config import Config as TrainConfig


@dataclass(frozen=True, kw_only=True)
class PlanConfig:
    """The hardware and data of a planned run: GPUs, their speed and price, and samples."""

    device: str = setting(
        "",
        "GPU, whose data sheet gives memory and speed; '' is this machine's",
        shown="|".join(NAMES),
    )
    ranks: int = setting(8, "total number of GPUs of the run", low=1)
    ranks_per_node: int = setting(8, "GPUs per node, between which links are fast", low=1)
    samples: int = setting(0, "number of samples of the dataset, where there is no source yet", low=0)
    shapes: tuple[tuple[int, int, int, int], ...] = setting(
        (), "latent shapes (channels, frames, height, width) of the buckets, where there is no source yet"
    )
    shares: tuple[float, ...] = setting((), "shares of the samples in these buckets; [] is equal shares")
    moments: Literal[1, 2] = setting(
        2, "what a cache stores of a latent: 1 the mean, 2 also the standard deviation"
    )
    text_tokens: int = setting(0, "tokens to which captions are padded, where the model takes text", low=0)
    mfu: float = setting(
        0.0,
        "share of the data sheet's peak that the run reaches, as measured; 0 gives the shortest possible "
        "time",
        low=0,
        high=1,
    )
    network_gb_s: float = setting(
        0.0, "bandwidth from a GPU to other nodes, in one direction; 0 is unknown", unit="GB/s", low=0
    )
    encode_rate: float = setting(
        0.0, "samples that a GPU encodes per second, as measured; 0 is unknown", low=0
    )
    price: float = setting(0.0, "price of a GPU-hour, in any currency; 0 is unknown", low=0)

    def __post_init__(self) -> None:
        if self.device and by_name(self.device) is None:
            raise UserError("device", self.device, f"one of {', '.join(NAMES)}, or '' for this machine's")
        if self.shares and len(self.shares) != len(self.shapes):
            raise UserError(
                "shares", list(self.shares), f"{len(self.shapes)} numbers, one for each of shapes"
            )
        if any(share <= 0 for share in self.shares):
            raise UserError("shares", list(self.shares), "numbers above 0")
        if any(min(shape) < 1 for shape in self.shapes):
            raise UserError("shapes", list(self.shapes), "numbers of at least 1")


@dataclass(frozen=True, kw_only=True)
class Config(TrainConfig):
    """A run of `train` that is to be planned; a source and an output need not be there yet."""

    job: ClassVar[str] = "plan"

    source: str = setting(
        "",
        "latent cache of the run; '' where there is none yet, and plan.samples and plan.shapes stand for it",
        shown="path or URL",
        role="place",
    )
    output: str = setting("", "not used: `plan` prints", shown="path", role="place")
    plan: PlanConfig = setting(PlanConfig(), "what the run would have")
    format: Literal["text", "json"] = setting("text", "what is printed")
    action: Literal["show", "write", "measure"] = setting(
        "show",
        "show: print the plan; write: also write the recommended engine fields into `file`; measure: time"
        " each shape on this machine's device, plan with the result, and write group sizes that take "
        "equal time",
    )
    file: str = setting(
        "plan.yaml", "YAML file for `train` that action=write or measure writes", shown="path"
    )
    overwrite: bool = setting(False, "replace an earlier `file`")
