"""Configuration of the job `shard`."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

from core.config.settings import REQUIRED, setting
from core.errors import UserError
from data.media.clips import ClipConfig
from data.media.colour import ColourMode
from data.media.formats import DEFAULT_LIMITS, MediaLimits
from data.raw.annotations.roles import ColumnsConfig
from data.raw.annotations.text_encoding import Encoding
from data.raw.duplicates import DuplicateConfig
from data.raw.filters import FilterConfig


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to pack, and how."""

    job: ClassVar[str] = "shard"

    source: str = setting(
        REQUIRED,
        "folder (classes from sub-folders), table (.csv .tsv .jsonl .json .parquet) or .tar",
        shown="path",
        role="place",
    )
    output: str = setting(REQUIRED, "folder that receives the dataset", shown="path", role="place")
    seed: int = setting(0, "seed of the order in which samples are packed", low=0)
    overwrite: bool = setting(False, "pack again over a finished output", role="work")
    processes: int = setting(1, "shards written in parallel", low=1, role="work")
    name: str = setting("data", "prefix of the shards' names")
    shuffle: bool = setting(True, "mix the samples over the shards; false keeps the order of the source")
    columns: ColumnsConfig = setting(ColumnsConfig(), "columns of a table, or fields of JSON, to read")
    captions: str = setting(
        "",
        "suffix of the files beside pictures that hold their text (txt, caption, json, ...); none: no "
        "captions; empty: the first of txt, caption, prompt, text, then JSON",
        shown="suffix|none",
    )
    split: str = setting("", "splits of the source to pack, where it has several", shown="NAME[+NAME]")
    part: Literal["all", "train", "held_out"] = setting(
        "all",
        "train: without the held-out samples; held_out: only these; chosen by the hash of their names",
    )
    held_out: float = setting(0.1, "share of the samples that part=train leaves out", low=0, high=1)
    links: Literal["inside", "follow"] = setting(
        "inside",
        "which symbolic links to follow: those to files of the source, or all, including linked folders",
    )
    encoding: Encoding = setting(
        "auto",
        "text encoding of captions and tables without a byte-order mark; auto: UTF-8, and UTF-16 if it looks "
        "so",
    )
    classes: bool | None = setting(
        None, "true: also take the names of kohya's folders as classes; false: no classes and labels"
    )
    samples_per_shard: int = setting(1024, "largest number of samples per shard", unit="samples", low=1)
    bytes_per_shard: int = setting(
        2**30, "largest size of the media in a shard of several samples", unit="bytes", low=1
    )
    check: Literal["decode", "header"] = setting(
        "decode", "how far each file is decoded before it is packed; header: until its dimensions are known"
    )
    colour: ColourMode = setting(
        "convert",
        "treatment of colours other than BT.709 or sRGB (HDR, wide gamut, ICC profiles): convert wherever"
        " the dataset is read, refuse the file, or keep the codes as they are",
    )
    limits: MediaLimits = setting(DEFAULT_LIMITS, "limits above which a file is refused as too large")
    filters: FilterConfig = setting(FilterConfig(), "sizes, aspect ratios, durations and frame rates to keep")
    duplicates: DuplicateConfig = setting(DuplicateConfig(), "which duplicates to leave out")
    clips: ClipConfig = setting(ClipConfig(), "how to cut long videos into clips")
    quarantine_budget: float = setting(
        0.1,
        "number of unusable samples above which the job fails: a fraction if below 1, else a count",
        low=0,
        role="work",
    )

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_-]*", self.name):
            raise UserError("name", self.name, "letters, digits, - and _")


def require_outside(output: str | Path, source: str | Path) -> None:
    """Raise UserError where the output lies in the folder that is packed into it."""
    if Path(source).is_dir() and Path(output).resolve().is_relative_to(Path(source).resolve()):
        raise UserError("output", output, f"a folder outside of the source {source}")
