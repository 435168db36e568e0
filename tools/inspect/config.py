"""Configuration of the job `inspect`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from core.config.settings import REQUIRED, setting
from core.errors import UserError
from data.order.buckets import BucketConfig

MOST_PICTURES = 10_000  # of a contact sheet, whose pictures and page then take about 600 MB


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to look at, and how to show it."""

    job: ClassVar[str] = "inspect"

    source: str = setting(
        REQUIRED, "dataset, raw or latent; or a checkpoint, a run, or an export", shown="path or URL"
    )
    action: Literal["show", "verify", "reindex"] = setting(
        "show",
        "show: describe the content; verify: check the hash of every file; reindex: rebuild index and "
        "manifest from the tars",
    )
    autoencoder: str = setting(
        "",
        "action=reindex of latents from elsewhere: folder of the autoencoder that made them, for training",
        shown="path",
    )
    quarantine_budget: float = setting(
        0.01,
        "action=reindex: number of unusable latents above which the job fails: a fraction if below 1, "
        "else a count",
        low=0,
    )
    format: Literal["text", "json"] = setting("text", "output format")
    json: str = setting("", "file that also receives the output as JSON", shown="path")
    sheet: str = setting("", "PNG file that receives a contact sheet; action=show", shown="path")
    rows: int = setting(10, "rows of the contact sheet: one a class, where there are several", low=1)
    columns: int = setting(10, "pictures in a row of the contact sheet", low=1, high=MOST_PICTURES)
    sample: int = setting(-1, "row of a raw dataset whose pixels are written; -1 is none", low=-1)
    pixels: str = setting(
        "",
        "file that receives `sample` as training sees it, scaled and cropped to its bucket: .npy of "
        "(frames, height, width, 3), or .png with the frames side by side",
        shown="path.npy|path.png",
    )
    buckets: BucketConfig = setting(
        BucketConfig(), "shapes to which `sample` may be scaled and cropped, and how clips are taken"
    )
    times: str = setting(
        "",
        "of a finished run: file that receives a density of training times derived from its losses, for "
        "objective.timesteps.density of another run",
        shown="path",
    )
    processes: int = setting(1, "not used: one process reads", low=1)

    def __post_init__(self) -> None:
        if self.rows * self.columns > MOST_PICTURES:
            expected = f"at most {MOST_PICTURES} pictures, here {MOST_PICTURES // self.columns} rows"
            raise UserError("rows", self.rows, expected)
        if self.sheet and self.action != "show":
            raise UserError("sheet", self.sheet, "action=show, or no sheet")
        if self.autoencoder and self.action != "reindex":
            raise UserError("autoencoder", self.autoencoder, "action=reindex, or no autoencoder")
        if self.sample < 0 and self.pixels:
            raise UserError("sample", self.sample, "a row, since pixels= is given")
        if self.sample >= 0 and self.action != "show":
            raise UserError("sample", self.sample, "-1, or action=show")
        if self.pixels and (self.action != "show" or Path(self.pixels).suffix not in (".npy", ".png")):
            raise UserError("pixels", self.pixels, "a name that ends in .npy or .png, and action=show")
