"""Read CSV and TSV: delimiter and encoding are detected, quoting and the number of fields are strict.

One stray quote makes the rows that follow part of a caption, and one comma that nobody quoted cuts a caption
in two; both look well to a lenient reader. So a table with either is refused, with lines and a hint.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from core.errors import UserError
from core.progress import counted
from data.media.formats import MEDIA_SUFFIXES
from data.raw.annotations.roles import role_of
from data.raw.annotations.text_encoding import LOOKED_AT, Encoding, encoding_of, is_utf8, readings
from data.raw.opening import LONGEST_LINE, lines_of, open_within, opener_within
from data.raw.tables.rows import HEAD, UNDECODED, Row, Table

DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "vertical bar"}
TABBED = (".tsv", ".tab")  # suffixes of tables whose fields are divided by tabs
MOST_LINES = 5  # shown of those that are wrong


@dataclass(frozen=True)
class _Form:
    """The format of a table. declared: whether its first line is `sep=X`, as Excel reads it.

    within: the folder out of which no link may lead to it.
    """

    encoding: str
    delimiter: str
    spaced: bool
    declared: bool
    within: str


def read(path: Path, encoding: Encoding, within: str, *, one_by_one: bool = False) -> Table:
    """Open a table; UserError where it is empty, of another encoding, or its lines do not fit each other.

    one_by_one: whether a row with another number of fields than the header is one with a problem instead, for
    rows that people write by hand and look at one by one.
    """
    form = _form(path, encoding, within)
    columns = next((tuple(fields) for _, fields in _lines(path, form)), ())
    if not columns:
        raise UserError(f"{path}: empty; its first line names the columns")
    header = ",".join(columns).encode("utf-8", UNDECODED)
    if form.encoding == "utf-8" and not is_utf8(header):
        raise UserError(f"{path}: line 1 is not UTF-8; {readings(header)}")

    def rows(wanted: tuple[str, ...] = ()) -> Iterator[Row]:
        return _rows(path, form, columns, one_by_one=one_by_one)

    head = tuple(row.fields for row in itertools.islice(_head(path, form, columns), HEAD))
    usual = form.delimiter == ("\t" if path.suffix.lower() in TABBED else ",")
    how = [] if usual else [f"fields divided by {DELIMITERS.get(form.delimiter, repr(form.delimiter))}"]
    how += [
        f"texts of column {column.strip()!r} in single quotes, which are kept"
        for column in _single_quoted(columns, head)
    ]
    how += [] if form.encoding in ("utf-8", "utf-8-sig") else [f"text in {form.encoding}"]
    names = tuple(name.strip() for name in columns)
    if all(map(is_single_quoted, names)):
        raise UserError(f"{path}: line 1: names of columns in single quotes; CSV quotes with double ones")
    return Table(path, names, rows, head, ", ".join(how), headless=_first_file(path, names))


def read_called_text(path: Path, encoding: Encoding, within: str) -> Table | None:
    """Open a table that is called `.txt`, as Flickr8k's `captions.txt` is; None unless the header says so.

    It names a column for the path and one for a caption or label, and rows follow.
    """
    try:
        with open_within(path, within) as file:
            data = file.read(LOOKED_AT)
    except OSError:
        return None  # a pipe, say, or a link: no table, and named as any other file that is not read
    first, _, rows = data.decode(encoding_of(data, encoding), errors="replace").partition("\n")
    first = first.strip("\r\ufeff")
    for delimiter in DELIMITERS if rows.strip() else ():
        roles = {role_of(name.strip()) for name in first.split(delimiter)}
        if "path" in roles and roles & {"text", "label", "class"}:
            return read(path, encoding, within)
    return None


def _single_quoted(columns: tuple[str, ...], head: tuple[Mapping[str, str], ...]) -> list[str]:
    """Return the columns all of whose first texts stand in single quotes, which CSV does not quote with."""
    found = {name: [fields[name] for fields in head if fields.get(name)] for name in columns}
    return [name for name, texts in found.items() if texts and all(map(is_single_quoted, texts))]


def is_single_quoted(text: str) -> bool:
    """Return whether a text stands in single quotes, which belong to it: CSV quotes with double ones."""
    return len(text) > 1 and text[0] == text[-1] == "'"


def _first_file(path: Path, names: tuple[str, ...]) -> str:
    """Return the name of a picture or film in the first line, which is a row then, "" if it names columns.

    A column may be called `mask.png` where another one is called as paths are and no such file is there.
    """
    with_path = any(role_of(name) == "path" for name in names)
    files = [name for name in names if name.lower().endswith(MEDIA_SUFFIXES)]
    return next((name for name in files if not with_path or (path.parent / name).is_file()), "")


def _form(path: Path, encoding: Encoding, within: str) -> _Form:
    with open_within(path, within) as file:
        name = encoding_of(file.read(LOOKED_AT), encoding)
    try:
        with open(path, encoding=name, errors=UNDECODED, newline="", opener=opener_within(within)) as file:
            first = file.readline(LONGEST_LINE).strip("\r\n")
            first = first.strip('"') if first.lower().startswith('"sep=') else first
            declared = first.lower().startswith("sep=") and len(first) == 5
            header = file.readline(LONGEST_LINE).strip("\r\n") if declared else first
    except UnicodeError as error:
        raise UserError(f"{path}: not text in {name}: {error}") from None
    try:
        delimiter = first[4] if declared else _delimiter(path, header)
    except csv.Error as error:
        raise UserError(f"{path}: line 1: {error}; it names the columns") from None
    return _Form(name, delimiter, f"{delimiter} " in header, declared, within)


def _delimiter(path: Path, header: str) -> str:
    """Return the delimiter that makes a path column of the header; else the one that makes most columns."""
    usual = "\t" if path.suffix.lower() in TABBED else ","
    candidates = sorted(DELIMITERS, key=lambda delimiter: delimiter != usual)
    columns = {delimiter: next(csv.reader([header], delimiter=delimiter), []) for delimiter in candidates}
    with_path = [
        d for d in candidates if len(columns[d]) > 1 and any(role_of(c) == "path" for c in columns[d])
    ]
    return (with_path or sorted(candidates, key=lambda delimiter: -len(columns[delimiter])))[0]


def _lines(path: Path, form: _Form) -> Iterator[tuple[int, list[str]]]:
    """Yield (number of its last line, fields) of each row that is not blank."""
    opener = opener_within(form.within)
    with open(path, encoding=form.encoding, errors=UNDECODED, newline="", opener=opener) as file:
        if form.declared:
            file.readline()
        reader = csv.reader(
            lines_of(file, path), delimiter=form.delimiter, skipinitialspace=form.spaced, strict=True
        )
        began = 1
        try:
            for fields in reader:
                if any(fields):
                    yield reader.line_num + form.declared, [_unwrapped(field) for field in fields]
                began = reader.line_num + 1
        except csv.Error as error:
            line = began + form.declared
            if "field limit" in str(error):
                raise UserError(
                    f"{path}: line {line}: a field has more than {csv.field_size_limit()} characters; "
                    "pictures as base64 are not read: write files, or Parquet with a column of bytes"
                ) from None
            raise UserError(
                f"{path}: line {line}: {error}; a quote opens or ends in the wrong place (a text with quotes "
                'or delimiters is written "...", with "" for each quote in it)'
            ) from None
        except UnicodeError as error:
            raise UserError(f"{path}: not text in {form.encoding}: {error}") from None


def _unwrapped(field: str) -> str:
    """Return a field without the form in which spreadsheets are made to keep a text as it is, `="001"`."""
    return field[2:-1] if len(field) > 2 and field.startswith('="') and field.endswith('"') else field


def _head(path: Path, form: _Form, columns: tuple[str, ...]) -> Iterator[Row]:
    """Yield the first rows, as far as they can be read."""
    try:
        for number, (_, fields) in enumerate(itertools.islice(_lines(path, form), 1, None), 1):
            yield Row(number, dict(zip(columns, fields, strict=False)))
    except UserError:
        return  # met again where all rows are read


def _rows(path: Path, form: _Form, columns: tuple[str, ...], *, one_by_one: bool) -> Iterator[Row]:
    """Yield all rows; UserError at the end if one has another number of fields, or swallowed the next."""
    wrong: list[str] = []
    names = [name.strip() for name in columns]
    for number, (line, fields) in enumerate(itertools.islice(_lines(path, form), 1, None), 1):
        if len(fields) != len(columns) and one_by_one:
            has = f"{counted(len(fields), 'field')}, where the header has {len(columns)}"
            yield Row(number, {}, f"{has}; a text with a {_kind(form)} stands in double quotes", line)
        elif len(fields) != len(columns):
            wrong.append(f"line {line} has {len(fields)}")
        elif _swallowed(fields, form.delimiter):
            raise UserError(
                f"{path}: line {line}: a text in quotes goes over lines that look like rows of the table; "
                'a quote before it is not closed (a quote within a text is written "")'
            )
        else:
            yield Row(number, dict(zip(names, fields, strict=True)), line=line)
    if wrong:
        more = f" and {counted(len(wrong) - MOST_LINES, 'other')}" if len(wrong) > MOST_LINES else ""
        raise UserError(
            f"{path}: the header has {counted(len(columns), 'field')}, {', '.join(wrong[:MOST_LINES])}{more}"
            f'; put texts with a {_kind(form)} into double quotes ("...")'
        )


def _kind(form: _Form) -> str:
    return DELIMITERS.get(form.delimiter, form.delimiter)


def _swallowed(fields: list[str], delimiter: str) -> bool:
    """Return whether a multi-line field holds a line like a row: a picture's name beside a delimiter."""
    for field in fields:
        for line in field.splitlines()[1:] if "\n" in field or "\r" in field else ():
            pieces = line.split(delimiter)
            if len(pieces) > 1 and any(p.strip(' "').lower().endswith(MEDIA_SUFFIXES) for p in pieces):
                return True
    return False
