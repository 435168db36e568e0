"""Take a command line apart: one job, YAML files, overrides, at most one bare path, two options."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import UserError

HELP, DRY_RUN = ("--help", "-h"), "--dry-run"


@dataclass(frozen=True)
class Arguments:
    """A parsed command line. job: '' where none was named. overrides: the bare path is `source=path`."""

    job: str
    files: tuple[Path, ...]
    overrides: tuple[str, ...]
    help: bool
    dry_run: bool


def parse(arguments: Sequence[str]) -> Arguments:
    """Take a command line apart; what a field accepts is checked later. Raises UserError."""
    options = [word for word in arguments if word.startswith("-")]
    job, *words = [word for word in arguments if not word.startswith("-")] or [""]
    for option in options:
        if option not in (*HELP, DRY_RUN):
            raise UserError(f"{option}: no such option; {_instead(option)}")
    files, overrides, bare = [], [], []
    for word in words:
        if _is_override(word):
            overrides.append(word)
        elif word.endswith((".yaml", ".yml")):
            files.append(Path(word))
        else:
            bare.append(word)
            overrides.append(f"source={word}")
    if len(bare) > 1:
        raise UserError(f"{' '.join(bare)}: expected one bare path, the source; other fields are field=value")
    asks = any(option in HELP for option in options)
    return Arguments(job, tuple(files), tuple(overrides), asks, DRY_RUN in options)


def _is_override(word: str) -> bool:
    name, equals, _ = word.partition("=")
    return bool(equals) and "/" not in name


def _instead(option: str) -> str:
    name, _, value = option.lstrip("-").replace("-", "_").partition("=")
    return f"fields are written {name}={value or '...'}; options are --help and --dry-run"
