"""Take a command line apart: one job, YAML files, overrides, at most one bare path, two options."""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from core.errors import UserError

HELP, DRY_RUN = ("--help", "-h"), "--dry-run"


@dataclass(frozen=True)
class Arguments:
    """A parsed command line. job: '' where none was named.

    overrides: the bare path is `source=path`, several are `source=[...]`.
    """

    job: str
    files: tuple[Path, ...]
    overrides: tuple[str, ...]
    help: bool
    dry_run: bool


def parse(arguments: Sequence[str], several: Collection[str] = ()) -> Arguments:
    """Take a command line apart; what a field accepts is checked later. Raises UserError.

    several: jobs that take any number of bare paths, which become one list.
    """
    options = [word for word in arguments if word.startswith("-")]
    job, *words = [word for word in arguments if not word.startswith("-")] or [""]
    for option in options:
        if option not in (*HELP, DRY_RUN):
            raise UserError(f"{option}: no such option; {_instead(option)}")
    files, overrides, bare, place = [], [], [], 0
    for word in words:
        if _is_override(word):
            overrides.append(word)
        elif word.endswith((".yaml", ".yml")):
            files.append(Path(word))
        else:
            place = len(overrides)
            bare.append(word)
    if bare:
        source = json.dumps(bare, ensure_ascii=False) if job in several else bare[0]
        overrides.insert(place, f"source={source}")
    if len(bare) > 1 and job not in several:
        raise UserError(f"{' '.join(bare)}: expected one bare path, the source; other fields are field=value")
    asks = any(option in HELP for option in options)
    return Arguments(job, tuple(files), tuple(overrides), asks, DRY_RUN in options)


def _is_override(word: str) -> bool:
    name, equals, _ = word.partition("=")
    return bool(equals) and "/" not in name


def _instead(option: str) -> str:
    """Name the nearest option, else how a field of that name is written."""
    if near := difflib.get_close_matches(option.replace("_", "-"), (*HELP, DRY_RUN), n=1, cutoff=0.7):
        return f"the nearest is {near[0]}"
    name, _, value = option.lstrip("-").replace("-", "_").partition("=")
    return f"fields are written {name}={value or '...'}; options are --help and --dry-run"
