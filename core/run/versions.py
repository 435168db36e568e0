"""Versions of the libraries that a run uses: with others it continues, but not bit for bit."""

from __future__ import annotations

import functools
import importlib.metadata
from collections.abc import Mapping

NAMES = ("longtake", "torch", "deepspeed")


def versions() -> dict[str, str]:
    """Return the versions of the libraries a step depends on, stored in every checkpoint."""
    return {name: _version(name) for name in NAMES}


def changes(before: Mapping[str, str]) -> str:
    """Return which releases differ from the record `before`, "" for none."""
    now = versions()
    return ", ".join(
        f"{name} {before.get(name)} -> {now[name]}" for name in NAMES if before.get(name) != now[name]
    )


@functools.cache  # it reads the package's description, and every checkpoint asks
def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that was never installed
        return "uninstalled"
