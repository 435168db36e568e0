"""The kinds of denoising networks, by the name that `model.kind` gives them.

A kind is one file with a network (`models.denoisers.network.Denoiser`) and its configuration, a frozen
dataclass that has what `DenoiserConfig` lists, and one line here. A test,
`tests/models/denoisers/test_kinds.py`, checks every kind in this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.config.values import any_of
from core.errors import UserError
from models.denoisers.dit import DiTConfig
from models.denoisers.network import DenoiserConfig

KINDS: dict[str, type[DenoiserConfig]] = {
    "dit": DiTConfig,
}
DEFAULT: DenoiserConfig = DiTConfig()


def config_class(record: Mapping[str, Any]) -> type[DenoiserConfig]:
    """Find the class of a recorded configuration; one without a kind was written when there was one alone."""
    kind = record.get("kind", "dit")
    if not isinstance(kind, str) or kind not in KINDS:
        raise UserError("kind", kind, any_of(list(KINDS)))
    return KINDS[kind]
