"""What a sampling job is asked for, as its files say now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from core.errors import UserError
from core.files import fingerprint
from tools.sample.prompts import read_prompts
from tools.sample.requests.presets import PRESETS, metadata_of
from tools.sample.requests.reading import Numbered, read_requests, rows_of

if TYPE_CHECKING:
    from tools.sample.config import Config


@dataclass(frozen=True)
class Asked:
    """Prompts that take turns, or requests; metadata by number of a request's row."""

    texts: tuple[str, ...] = ()
    requests: tuple[Numbered, ...] = ()
    metadata: Mapping[int, str] = field(default_factory=dict)

    @property
    def hashes(self) -> list[str]:
        """A short hash of every request, by which a job knows them again."""
        return [
            fingerprint([each.request.as_recorded(), self.metadata.get(each.row, "")])[:16]
            for each in self.requests
        ]


def read_asked(config: Config) -> Asked:
    """Read prompts or requests; UserError where there are none to be used, or too many that cannot be."""
    if not config.requests:
        return Asked(read_prompts(config.prompts, config.prompt_file))
    path = Path(config.requests)
    rows = list(rows_of(path))
    listed = PRESETS[config.preset].read(rows) if config.preset else rows
    found = read_requests(listed, path, config.bad_requests)
    return Asked((), tuple(found), metadata_of(config.preset, rows))


def applied(config: Config) -> Config:
    """Return a config with what its preset says; UserError where the config says otherwise."""
    if not config.preset:
        return config
    preset, usual = PRESETS[config.preset], type(config)(source="", output="")
    if preset.needs_requests and not config.requests:
        raise UserError("requests", "''", f"the list of prompts of preset={config.preset}")
    files = replace(config.files, kind=preset.kind, name=preset.name or usual.files.name)
    for name in ("kind", "name"):
        said = getattr(config.files, name)
        if said not in (getattr(usual.files, name), getattr(files, name)):
            expected = f"{getattr(files, name)} with preset={config.preset}"
            raise UserError(f"files.{name}", said, expected)
    if config.each not in (usual.each, preset.each):
        raise UserError("each", config.each, f"{preset.each} with preset={config.preset}")
    return replace(config, files=files, each=preset.each)
