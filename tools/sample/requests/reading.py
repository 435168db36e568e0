"""Files of requests: a prompt a line, or a table, JSON or YAML with the columns of a `Request`.

A row that cannot be used is named with its number, together with those that the run cannot make
(`collecting`); the others are used while there are no more such rows than the budget says. Benchmarks' own
lists of prompts are read by `tools.sample.requests.presets`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from core.config.yaml_files import read_yaml
from core.errors import UserError
from core.files import read_text
from core.progress import counted
from core.reading.instead import instead
from data.raw.tables import delimited
from data.raw.tables.kinds import open_table
from data.raw.tables.rows import Row
from tools.sample.requests.request import Request, make_request

LARGEST_FILE = 1 << 26  # bytes
SHOWN = 10  # rows that cannot be used
ACCEPTED = ".txt (a prompt a line), .csv, .tsv, .jsonl, .json, .yaml"
_PICKED = re.compile(r"(.+)\[(\d+)\]")


class Numbered(NamedTuple):
    """A request and the number of its row, from 1."""

    row: int
    request: Request


class Wrong(NamedTuple):
    """A row that cannot be used, and why."""

    row: int
    why: str


def rows_of(path: Path, field: str = "requests") -> Iterator[Row]:
    """Yield the rows of a file; UserError, naming `field`, if it is none or of another kind.

    `FILE[N]` is row N of the file alone, counted from 0.
    """
    picked = _PICKED.fullmatch(str(path))
    if picked and not path.exists():
        found = list(rows_of(Path(picked[1]), field))
        if int(picked[2]) >= len(found):
            raise UserError(field, path, f"a row from 0 to {len(found) - 1}")
        yield found[int(picked[2])]
        return
    if not path.is_file():
        raise UserError(field, path, f"a file{instead(path)}")
    suffix = path.suffix.lower()
    if suffix == ".txt":
        yield from _lines(path, field)
    elif suffix in (".yaml", ".yml"):
        yield from _of_yaml(path, field)
    elif suffix in (".csv", ".tsv"):
        yield from _of_columns(path, field)
    elif suffix in (".jsonl", ".json"):
        if (table := open_table(path, "auto", "")) is None:
            raise UserError(field, path, "a list of objects, a request each")
        yield from table.rows(table.columns)
    else:
        raise UserError(field, path, ACCEPTED)


def _lines(path: Path, field: str) -> Iterator[Row]:
    try:
        lines = read_text(path, LARGEST_FILE).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(field, path, f"a UTF-8 text file with a prompt a line ({error})") from None
    for number, line in enumerate(lines, 1):
        if line.strip():
            yield Row(number, {"prompt": line.strip()})


def _of_columns(path: Path, field: str) -> Iterator[Row]:
    table = delimited.read(path, "auto", "", one_by_one=True)
    if twice := [name for name in table.columns if name and table.columns.count(name) > 1]:
        raise UserError(field, path, f"columns of different names; {twice[0]!r} is there more than once")
    yield from table.rows(table.columns)


def _of_yaml(path: Path, field: str) -> Iterator[Row]:
    expected = "YAML with a list under `requests:`, and nothing else"
    try:
        content = read_yaml(path)
    except UserError as error:
        raise UserError(field, path, f"{expected} ({error})") from None
    listed = content.get("requests")
    if set(content) != {"requests"} or not isinstance(listed, list):
        raise UserError(field, path, expected)
    for number, row in enumerate(listed, 1):
        known = isinstance(row, Mapping)
        yield Row(number, row if known else {}, "" if known else "not fields and their values")


def read_requests(rows: Iterable[Row], path: Path) -> tuple[list[Numbered], list[Wrong]]:
    """Make the requests of rows; return also those that are none.  UserError for a file without any row."""
    found, wrong = list[Numbered](), list[Wrong]()
    for row in rows:
        try:
            if row.problem:
                raise UserError(row.problem)
            found.append(Numbered(row.number, make_request(_request_of(row.fields))))
        except UserError as error:
            wrong.append(Wrong(row.number, str(error)))
    if not found and not wrong:
        raise UserError("requests", path, "a file with at least one request")
    return found, wrong


def _request_of(fields: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the fields of a request; those within a row of samples.jsonl, which makes that sample again."""
    within = fields.get("request")
    return within if isinstance(within, Mapping) and "sha256" in fields else fields


def require_few(path: Path, wrong: Iterable[Wrong], budget: int) -> str:
    """Say what rows cannot be used, "" for none; UserError for more than `budget`."""
    listed = sorted(wrong)
    if not listed:
        return ""
    more = f"; and {len(listed) - SHOWN} others" if len(listed) > SHOWN else ""
    named = "; ".join(f"row {each.row}: {each.why}" for each in listed[:SHOWN]) + more
    if len(listed) > budget:
        allowed = (
            f" (bad_requests={budget} are left out)" if budget else " (bad_requests=N leaves out up to N)"
        )
        raise UserError(f"{path}: {counted(len(listed), 'row')} cannot be used: {named}{allowed}")
    return f"{path}: {counted(len(listed), 'row')} left out: {named}"
