"""Where samples are given frames, and whether a run was trained to be given them there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from core.config.yaml_files import read_recorded
from core.diffusion.frames.training_levels import GivenConfig
from core.errors import below
from core.run.folder import CONFIG
from models.denoisers.network import DenoiserConfig
from tools.sample.given.config import TaskConfig

Pattern = Literal["first", "last", "ends", "every"]
PLACES: dict[Pattern, str] = {
    "first": "at the start",
    "last": "at the end",
    "ends": "at both ends",
    "every": "at every n-th place",
}


def pattern_of(task: TaskConfig) -> Pattern | None:
    """Return where frames are given, None for none."""
    if task.given_every:
        return "every"
    if task.given:
        return "ends" if task.given_last else "first"
    return "last" if task.given_last else None


def learned(source: Path, network: DenoiserConfig, pattern: Pattern, task: TaskConfig) -> bool:
    """Return whether a run was trained with frames given in such places, as its config says."""
    if not (network.frame_condition or network.frames_per_level):
        return False
    recorded: Any = read_recorded(source / CONFIG).get("objective") or {}
    if network.frames_per_level and recorded.get("frame_times") == "independent":
        return True
    if network.frames_per_level and recorded.get("frame_times") == "prefix":
        return pattern == "first"
    if recorded.get("given_frames", 0.5) == 0:
        return False
    with below(f"{source / CONFIG}: objective.given"):
        given = replace(GivenConfig(), **(recorded.get("given") or {}))
    if given.random:
        return True
    return bool(getattr(given, pattern)) and (pattern != "every" or given.n == task.given_every)


def learned_stills(source: Path) -> bool:
    """Return whether a last frame given alone stood still in training, as its config says."""
    return bool((read_recorded(source / CONFIG).get("data") or {}).get("stills"))
