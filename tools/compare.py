"""Compare the scores of several evaluations side by side, and refuse to rank what was measured differently.

An evaluation is a folder of `evaluate`, or a row that a run wrote while it trained (`evaluate.every`), one
evaluation for each average. The best of a score is marked, and what its interval does not tell from the best.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from core import terminal
from core.config.loading import difference
from core.config.settings import REQUIRED, setting
from core.errors import UserError
from core.progress import aligned
from core.reading import json_files
from core.reading.instead import instead
from core.records import read_rows
from core.run.folder import EVALUATED, SCORES
from tools.runs.rulers import RULER, SUBJECT
from tools.runs.score_names import LARGER_IS_BETTER, SMALLER_IS_BETTER, interval, is_interval

SHOWN = 28  # letters of a value
BEST, NEAR = " *", " ~"
MEANING = "* the best of its row; ~ its 95 % interval overlaps with that of the best"
_ROW = re.compile(r"(.+)\[(\d+)\]")


@dataclass(frozen=True, kw_only=True)
class Config:
    """What to compare."""

    job: ClassVar[str] = "compare"

    source: tuple[str, ...] = setting(
        REQUIRED,
        "folders of `evaluate`, or their scores.json; or runs that evaluated during training, of which "
        "the last row is taken, or RUN/evaluations.jsonl[STEP]",
        shown="path",
    )


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
    """Read the scores at all places; UserError for one that has none, and for less than two in all."""
    found = [scored for source in sources for scored in read(source)]
    if len(found) < 2:
        raise UserError("source", list(sources), "at least two evaluations: longtake compare A B")
    return found


def read(source: str) -> list[Scored]:
    """Read an evaluation, given as its folder, the file, or the folder of its samples, or those of a run."""
    folder, step = Path(source), None
    if (row := _ROW.fullmatch(source)) and Path(row[1]).name == EVALUATED:
        folder, step = Path(row[1]), int(row[2])
    for path in (folder, folder / SCORES, folder / "scores" / SCORES):
        if path.is_file() and path.name != EVALUATED:
            return [_scored(source, json_files.read(path, dict[str, Any]))]
    rows = folder if folder.name == EVALUATED else folder / EVALUATED
    if not rows.is_file():
        raise UserError("source", source, f"a folder with {SCORES} or {EVALUATED}{instead(folder)}")
    return list(_of_row(source, rows, step))


def _of_row(source: str, path: Path, step: int | None) -> Iterator[Scored]:
    """Yield an evaluation for each average in the row of a step, the last one for None.

    UserError where there is none that did not fail.
    """
    rows = {row["step"]: row for row in read_rows(path) if "step" in row}
    chosen = rows.get(max(rows, default=0) if step is None else step, {})
    parts = {name: part for name, part in chosen.items() if isinstance(part, dict) and "failed" not in part}
    if not parts:
        steps = ", ".join(map(str, sorted(rows))) or "none"
        raise UserError("source", source, f"an evaluation of {path}, which has the steps {steps}")
    for name, part in parts.items():
        subject = {"step": chosen["step"], **(part.get(SUBJECT) or {})}
        yield _scored(f"{source} {name}", {**part, SUBJECT: subject})


def _scored(name: str, content: Mapping[str, Any]) -> Scored:
    numbers = {key: float(value) for key, value in content.items() if _is_number(value)}
    return Scored(name, numbers, content.get(RULER), content.get(SUBJECT) or {})


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

    The best of a score is marked where all were measured alike, and those that its interval leaves open.
    """
    alike = not ruler_differences(found)
    rows = [["score", *(each.name for each in found)]]
    for name in dict.fromkeys(name for each in found for name in each.scores):
        if is_interval(name):
            continue
        values = [each.scores.get(name) for each in found]
        halves = [each.scores.get(interval(name)) for each in found]
        marks = _marks(name, values, halves) if alike else [""] * len(values)
        cells = zip(values, halves, marks, strict=True)
        rows.append([name, *(_cell(value, half) + mark for value, half, mark in cells)])
    rows += _subject_rows(found)
    return [*aligned(rows), MEANING] if alike else aligned(rows)


def _marks(name: str, values: Sequence[float | None], halves: Sequence[float | None]) -> list[str]:
    """Return a mark for the best values of a score that has a direction, and for those near the best.

    halves: half the widths of the intervals, where there are such.
    """
    known = [value for value in values if value is not None]
    if len(known) < 2 or name not in LARGER_IS_BETTER + SMALLER_IS_BETTER:
        return [""] * len(values)
    best = max(known) if name in LARGER_IS_BETTER else min(known)
    of_best = [half for value, half in zip(values, halves, strict=True) if value == best and half is not None]

    def mark(value: float | None, half: float | None) -> str:
        if value is None or value == best:
            return BEST * (value is not None)
        overlaps = half is not None and any(abs(value - best) <= half + other for other in of_best)
        return NEAR * overlaps

    return [mark(value, half) for value, half in zip(values, halves, strict=True)]


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


def _cell(value: float | None, half: float | None) -> str:
    if value is None:
        return "-"
    shown = f"{value:.0f}" if value == int(value) and abs(value) < 1e9 else f"{value:.5g}"
    return shown if half is None else f"{shown} ±{half:.2g}"


def _short(value: Any) -> str:
    text = "-" if value is None else str(value)
    return text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}..."
