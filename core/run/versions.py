"""Which releases a run is computed by: on others it continues, but not to the bit."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping

NAMES = ("longtake", "torch", "deepspeed")


def versions() -> dict[str, str]:
    """Of what a step is computed by, for the record in a checkpoint."""
    return {name: _version(name) for name in NAMES}


def changes(before: Mapping[str, str]) -> str:
    """What is another release now than in the record `before`, "" for nothing."""
    now = versions()
    return ", ".join(
        f"{name} {before.get(name)} -> {now[name]}" for name in NAMES if before.get(name) != now[name]
    )


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that was never installed
        return "uninstalled"
