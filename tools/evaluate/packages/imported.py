"""Record what another package has measured of samples: VBench, GenEval, DPG or any JSON of numbers."""

from __future__ import annotations

import contextlib
import math
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import UserError
from core.files import read_bytes
from core.reading import json_files
from core.reading.instead import instead
from core.reading.json_files import Malformed
from core.records import iterate
from tools.runs.rulers import OF, of_samples, prompts_rewritten
from tools.runs.samples import Samples

DPG = "DPG-Bench score"


@dataclass(frozen=True, kw_only=True)
class Import:
    """Settings of `evaluate` about a result of another package, by the same names."""

    imported: str
    package: str


def scores_of(samples: Samples, config: Import, of: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content of scores.json.  of: what it was made from."""
    found = read(Path(config.imported))
    ruler = {"measured_by": config.package, "prompts_rewritten": prompts_rewritten(samples)}
    return {**found, OF: dict(of), **of_samples([samples], ruler)}


def read(path: Path) -> dict[str, float]:
    """Return the scores in a result by name; UserError for a file that holds none.

    VBench: {dimension: [score, details]}.  GenEval: rows of {"tag", "correct"}, of which shares are taken by
    tag, `overall` being their mean, as its summary does.  DPG: the text with scores by category, from 0 to
    100, and `overall`.  Others: numbers, in objects too, by dotted name.
    """
    if not path.is_file():
        raise UserError("imported", path, f"a file of results{instead(path)}")
    try:
        if path.suffix == ".txt":
            found = _of_text(read_bytes(path).decode(errors="replace"))
        elif path.suffix == ".jsonl":
            found = _of_rows(path)
        else:
            found = dict(_numbers(json_files.read(path, dict[str, Any])))
    except (OSError, Malformed) as error:
        raise UserError("imported", path, f"JSON with scores ({error})") from None
    if not found:
        raise UserError("imported", path, "JSON with scores; this one has no number")
    return found


def _numbers(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in values.items():
        first = value[0] if isinstance(value, list) and value else value
        if isinstance(first, Mapping) and not isinstance(value, list):
            yield from _numbers(first, f"{prefix}{name}.")
        elif isinstance(first, int | float) and not isinstance(first, bool) and math.isfinite(first):
            yield f"{prefix}{name}", float(first)


def _of_text(text: str) -> dict[str, float]:
    """Return what DPG's results end with: indented scores of categories, and the score of all images.

    Before them stands a line for each image.
    """
    found = {}
    for name, value in re.findall(r"^(\t[^:\n]+|DPG-Bench score): *([0-9.eE+-]+)$", text, re.MULTILINE):
        with contextlib.suppress(ValueError):
            found["overall" if name == DPG else name.strip().strip("- ")] = float(value)
    return found if "overall" in found else {}


def _of_rows(path: Path) -> dict[str, float]:
    right: dict[str, list[bool]] = defaultdict(list)
    for row in iterate(path):
        if isinstance(row.get("tag"), str) and isinstance(row.get("correct"), bool):
            right[row["tag"]].append(row["correct"])
    shares = {tag: sum(found) / len(found) for tag, found in sorted(right.items())}
    return shares | ({"overall": sum(shares.values()) / len(shares)} if shares else {})
