"""Lay the scores of several evaluations side by side, and refuse to rank what was measured differently."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from core import terminal
from core.config.loading import difference
from core.config.settings import REQUIRED, setting
from core.errors import UserError
from core.files import instead
from core.progress import aligned
from core.reading import json_files
from core.run.folder import SCORES
from tools.runs.rulers import RULER, SUBJECT
from tools.runs.score_names import LARGER_IS_BETTER, SMALLER_IS_BETTER

SHOWN = 28  # letters of a value


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to compare."""

    job: ClassVar[str] = "compare"

    source: tuple[str, ...] = setting(
        REQUIRED, "two or more folders of `evaluate`, or their scores.json", shown="path"
    )

    def __post_init__(self) -> None:
        if len(self.source) < 2:
            raise UserError("source", list(self.source), "at least two folders: longtake compare A B")


@dataclass(frozen=True)
class Scored:
    """The scores of one evaluation.  ruler: None for those of an earlier version, which do not say."""

    name: str
    scores: Mapping[str, float]
    ruler: Mapping[str, Any] | None
    subject: Mapping[str, Any]


def plan(config: Config) -> list[str]:
    """Say what would be compared."""
    return [f"{each.name}: {len(each.scores)} scores" for each in read_all(config.source)]


def run(config: Config) -> None:
    """Print the scores side by side; UserError at the end where rulers differ."""
    found = read_all(config.source)
    terminal.tell("\n".join(table(found)), to="stdout")
    if different := ruler_differences(found):
        named = "; ".join(different)
        raise UserError(f"measured differently, so these scores rank nothing: {named} (evaluate all alike)")


def read_all(sources: Sequence[str]) -> list[Scored]:
    """Read the scores of all folders; UserError for one that has none."""
    return [read(Path(source)) for source in sources]


def read(folder: Path) -> Scored:
    """Read the scores of an evaluation, given as its folder, the file, or the folder of its samples."""
    path = folder
    if folder.is_dir():
        path = folder / SCORES if (folder / SCORES).is_file() else folder / "scores" / SCORES
    if not path.is_file():
        raise UserError("source", folder, f"a folder with {SCORES}{instead(folder)}")
    content = json_files.read(path, dict[str, Any])
    numbers = {name: float(value) for name, value in content.items() if _is_number(value)}
    return Scored(str(folder), numbers, content.get(RULER), content.get(SUBJECT) or {})


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def ruler_differences(found: Sequence[Scored]) -> list[str]:
    """Name every field in which rulers differ from the first one, with both values."""
    first, *others = found
    if unsaid := [each.name for each in found if each.ruler is None]:
        return [f"{name} does not say by what it was measured" for name in unsaid]
    named: dict[str, str] = {}
    for other in others:
        for field, a, b in difference(first.ruler or {}, other.ruler or {}):
            named.setdefault(field, f"{field} is {_short(a)} in {first.name} and {_short(b)} in {other.name}")
    return list(named.values())


def table(found: Sequence[Scored]) -> list[str]:
    """Return lines: a column an evaluation, a row a score, then what differs between the subjects.

    The best of a score is marked where all were measured alike.
    """
    alike = not ruler_differences(found)
    rows = [["score", *(each.name for each in found)]]
    for name in dict.fromkeys(name for each in found for name in each.scores):
        values = [each.scores.get(name) for each in found]
        marks = _best(name, values) if alike else [""] * len(values)
        rows.append([name, *(_cell(value) + mark for value, mark in zip(values, marks, strict=True))])
    rows += _subject_rows(found)
    return [*aligned(rows), "* the best of its row, whatever its interval"] if alike else aligned(rows)


def _best(name: str, values: Sequence[float | None]) -> list[str]:
    """Return a mark for the best values of a score that has a direction."""
    known = [value for value in values if value is not None]
    if len(known) < 2 or name not in LARGER_IS_BETTER + SMALLER_IS_BETTER:
        return [""] * len(values)
    best = max(known) if name in LARGER_IS_BETTER else min(known)
    return [" *" if value == best else "" for value in values]


def _subject_rows(found: Sequence[Scored]) -> list[list[str]]:
    """Return a row for each field of the subjects that is not the same everywhere."""
    first, *others = found
    fields = dict.fromkeys(
        field for other in others for field, _, _ in difference(first.subject, other.subject)
    )
    return [[field, *(_short(_at(each.subject, field)) for each in found)] for field in fields]


def _at(tree: Mapping[str, Any], path: str) -> Any:
    """Return the value at a dotted path, None where there is none."""
    value: Any = tree
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value


def _cell(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if value == int(value) and abs(value) < 1e9 else f"{value:.5g}"


def _short(value: Any) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
