"""Rules for reading a source where its files leave a choice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from data.raw.annotations.captions import NO_CAPTIONS
from data.raw.annotations.roles import USUAL_COLUMNS, ColumnsConfig
from data.raw.annotations.text_encoding import Encoding

Links = Literal["inside", "follow"]


@dataclass(frozen=True, kw_only=True)
class SourceRules:
    """Settings of `shard` that concern the listing, by the same names; see `tools.shard.config`."""

    columns: ColumnsConfig = USUAL_COLUMNS
    captions: str = ""
    split: str = ""
    links: Links = "inside"
    encoding: Encoding = "auto"
    classes: bool | None = None

    @property
    def wants_text(self) -> bool:
        """Whether captions are wanted."""
        return self.captions != NO_CAPTIONS

    @property
    def splits(self) -> tuple[str, ...]:
        """The splits to pack, `train+val` being two."""
        return tuple(part.strip().removeprefix("split=") for part in self.split.split("+") if part.strip())
