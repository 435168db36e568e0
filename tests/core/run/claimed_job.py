"""A small job whose output is claimed, with a field of each role."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from core.config.settings import setting
from core.engine.config import EngineConfig
from core.run.claim import claim


@dataclass(frozen=True, kw_only=True)
class Job:
    job: ClassVar[str] = "train-autoencoder"

    output: Path = setting(Path("out"), "folder that is written", role="place")
    size: int = setting(1, "size")
    seed: int = setting(0, "seed")
    log_every: int = setting(1, "steps between lines", role="watch")
    processes: int = setting(1, "ranks", role="work")
    source: str = setting("data", "what is read", role="place")
    also: tuple[str, ...] = setting((), "what is read too", role="place")
    overwrite: bool = setting(False, "start over", role="work")
    engine: EngineConfig = setting(EngineConfig(), "how ranks share the work")


def take(output: Path, job: Job | None = None, *, overwrite: bool = False) -> str:
    return claim(output, job or Job(), done="done.json", overwrite=overwrite)
