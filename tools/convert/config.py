"""Configuration of the job `convert`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from core.config.settings import REQUIRED, setting
from core.errors import UserError
from tools.cards.config import CardConfig

INDEX = "model_index.json"  # of a pipeline of diffusers


@dataclass(frozen=True, kw_only=True)
class Config:
    """Which weights to convert, and what they need beside them."""

    job: ClassVar[str] = "convert"

    source: str = setting(
        REQUIRED,
        "a file of weights in `layout`, or the folder of a DiTPipeline, to read; or a run or export, to "
        "write in `layout`",
        shown="path",
    )
    output: str = setting(
        REQUIRED,
        "new folder, for an export; when writing in `layout`, a new .pt file or, for diffusers, a folder",
        shown="path",
    )
    overwrite: bool = setting(False, "replace an earlier export, .pt file or pipeline")
    layout: Literal["dit", "sit", "diffusers"] = setting(
        "dit",
        "dit: the published class-conditional DiT; sit: SiT, trained for the velocity on a straight path; "
        "diffusers: the folder of a DiTPipeline",
    )
    weights: str = setting(
        "ema", "which set of weights, where there are several: ema or raw; a run's averages also by name"
    )
    checkpoint: str = setting("", "of a run: the name of a checkpoint; '' is the newest")
    autoencoder: str = setting(
        "",
        "folder of the autoencoder of the latents, in diffusers' layout; '' takes a pipeline's own",
        shown="path",
    )
    latent_std: float = setting(
        0.0,
        "standard deviation by which latents are divided for the network; 0 takes the autoencoder's own "
        "normalisation (SD-VAE: 1 / 0.18215)",
        low=0.0,
    )
    heads: int = setting(0, "attention heads; 0 takes those of the published network of this size", low=0)
    classes: str = setting(
        "", "text file with one class name per line; '' names classes by number", shown="path"
    )
    card: CardConfig = setting(CardConfig(), "additions to README.md, the model card of a folder")
    processes: int = setting(1, "not used: one process converts", low=1)

    def __post_init__(self) -> None:
        if self.weights not in ("ema", "raw") and not self.weights:
            raise UserError("weights", "''", "ema, raw, or the name of an average")
