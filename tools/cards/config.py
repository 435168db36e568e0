"""Configuration of model cards: the section `card` of jobs that write weights for others."""

from __future__ import annotations

import re
from dataclasses import dataclass

from core.config.settings import setting
from core.errors import UserError

_LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]*")


@dataclass(frozen=True, kw_only=True)
class CardConfig:
    """The parts of a model card that no record holds."""

    licence: str = setting(
        "", "licence of the weights, as an SPDX identifier (Apache-2.0); '' states that none was given"
    )
    scores: tuple[str, ...] = setting(
        (), "folders of `evaluate`, or their scores.json, for exactly these weights", shown="path"
    )

    def __post_init__(self) -> None:
        if self.licence and not _LICENCE.fullmatch(self.licence):
            raise UserError("licence", self.licence, "an identifier such as Apache-2.0, or ''")
