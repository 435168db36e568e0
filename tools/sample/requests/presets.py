"""Benchmarks whose packages judge folders of samples: their lists of prompts, names of files, and counts.

Names are never altered: what a benchmark's package would look for is what is written, or refused. Formats as
of the packages' repositories: VBench and VBench-2.0 (Huang et al. 2024; Zheng et al. 2025), GenEval (Ghosh et
al. 2023), and the arrays of ADM's evaluator (Dhariwal and Nichol 2021).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from core.errors import UserError
from data.raw.tables.rows import Row
from models.precision import AskedPrecision
from tools.sample.files.kinds import FileKind

PresetName = Literal["", "vbench", "vbench2", "geneval", "adm"]

FLICKERING = "temporal_flickering"  # VBench: judged by 25 films a prompt instead of 5
DIVERSITY = "Diversity"  # VBench-2.0: judged by 20 films a prompt instead of 3


@dataclass(frozen=True)
class Preset:
    """A benchmark.

    kind: of files.  of_films: whether they hold films.  name: template of their names.  each: samples of a
    request.  read: makes requests' fields of the rows of its list.  needs_requests: whether it comes with a
    list.  beside: path of a file with a row's own content, by number of the request; None without such.
    precision: in which the network computes unless the job says otherwise.
    """

    kind: FileKind
    of_films: bool
    name: str
    each: int
    read: Callable[[Iterable[Row]], Iterator[Row]]
    needs_requests: bool = True
    beside: Callable[[int], str] | None = None
    precision: AskedPrecision = "auto"


def _vbench(rows: Iterable[Row]) -> Iterator[Row]:
    """Read VBench_full_info.json, or rows of our own: equal prompts once, with the dimensions of all."""
    found: dict[str, dict[str, Any]] = {}
    numbers: dict[str, int] = {}
    for row in rows:
        if row.problem:
            yield row
            continue
        fields = dict(row.fields)
        if "dimension" not in fields and not fields.get("count"):
            yield row._replace(problem=f"neither dimension nor count: {FLICKERING} takes 25 films a prompt")
            continue
        dimensions = _dimensions(fields)
        if "prompt_en" in fields:
            fields = {"prompt": fields["prompt_en"]}
        name = str(fields.get("name") or fields.get("prompt"))
        known = found.setdefault(name, fields)
        numbers.setdefault(name, row.number)
        if FLICKERING in dimensions:
            known.setdefault("count", 25)
    yield from (Row(numbers[name], fields) for name, fields in found.items())


def _vbench2(rows: Iterable[Row]) -> Iterator[Row]:
    """Read VBench2_full_info.json, or rows of our own with a folder: a folder a dimension."""
    for row in rows:
        fields = dict(row.fields)
        if row.problem or "prompt_en" not in fields:
            yield row
            continue
        for dimension in _dimensions(fields):
            more = {"count": 20} if dimension == DIVERSITY else {}
            yield Row(row.number, {"prompt": fields["prompt_en"], "folder": dimension, **more})


def _dimensions(fields: dict[str, Any]) -> list[str]:
    """Take the dimensions, a text or a list of them, out of a row."""
    found = fields.pop("dimension", [])
    return [found] if isinstance(found, str) else [str(each) for each in found]


def _geneval(rows: Iterable[Row]) -> Iterator[Row]:
    """Read evaluation_metadata.jsonl; a prompt and what should be seen in each line."""
    for row in rows:
        yield row if row.problem else Row(row.number, {"prompt": row.fields.get("prompt")})


def _as_they_are(rows: Iterable[Row]) -> Iterator[Row]:
    yield from rows


PRESETS: Mapping[str, Preset] = {
    "vbench": Preset("h264", True, "{name}-{k}", 5, _vbench),
    "vbench2": Preset("h264", True, "{folder}/{name:.180}-{k}", 3, _vbench2),
    "geneval": Preset(
        "png", False, "{row:05d}/samples/{k:04d}", 4, _geneval, beside=lambda row: f"{row:05d}/metadata.jsonl"
    ),
    "adm": Preset("npz", False, "", 1, _as_they_are, needs_requests=False, precision="fp32"),
}


def metadata_of(preset: str, rows: Iterable[Row]) -> dict[int, str]:
    """Return what a benchmark wants beside the samples, as lines of JSON, by number of the row."""
    if not preset or PRESETS[preset].beside is None:
        return {}
    return {row.number: json.dumps(row.fields, ensure_ascii=False) + "\n" for row in rows if not row.problem}


def require_frames(preset: str, frames: int) -> None:
    """Refuse samples of so many frames that a benchmark does not look at."""
    if preset and PRESETS[preset].of_films != (frames > 1):
        expected = "more than 1" if PRESETS[preset].of_films else "1"
        kind = "films" if PRESETS[preset].of_films else "images"
        raise UserError("frames", frames, f"{expected} with preset={preset}, which is about {kind}")
