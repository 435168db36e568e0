"""Configuration of the job `report`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from core.config.settings import REQUIRED, setting
from core.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to report on, and where the page goes."""

    job: ClassVar[str] = "report"

    source: tuple[str, ...] = setting(
        REQUIRED,
        "folders of runs, datasets, samples, scores or sweeps, shown side by side; in a config file a list",
        shown="path",
    )
    output: str = setting(
        "",
        "HTML file that is written; '' is report.html in the source, or here where there are several",
        shown="path",
    )
    follow: bool = setting(False, "rewrite the page as the runs progress, until they end or Ctrl-C")
    follow_every: float = setting(
        10.0,
        "time between rewrites; at least ten times as long as one takes",
        unit="s",
        low=1.0,
        high=86400.0,
    )
    sheet: bool = setting(True, "draw a contact sheet of each dataset")

    def __post_init__(self) -> None:
        if self.source == () or any(not each for each in self.source):
            raise UserError("source", list(self.source), "at least one folder: longtake report RUN...")
        if self.output and not self.output.endswith((".html", ".htm")):
            raise UserError("output", self.output, "a name that ends in .html")
