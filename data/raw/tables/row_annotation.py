"""What a row of a table says of its sample: its fields, those of a `json` column, and names of classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from core.errors import UserError
from data.raw.annotations.annotation import Annotation, from_fields
from data.raw.annotations.captions import LABEL_UNUSED, json_object
from data.raw.annotations.roles import JSON, ColumnsConfig, by_role, is_nothing, plain, role_of
from data.raw.annotations.text_encoding import readings
from data.raw.tables.rows import UNDECODED, Embedded, Row, Table


def annotation_of(table: Table, row: Row, columns: ColumnsConfig, *, with_path: bool) -> Annotation:
    """Read a row; UserError where two of its columns contradict each other.

    with_path: a file is what the row is about, and not a picture in the table.
    """
    fields = _with_class_names(table, row.fields)
    for name, value in fields.items():
        if isinstance(value, Embedded) and role_of(name, columns) != "path" and role_of(name, columns):
            return Annotation(refused=("caption", f"column {name!r} holds bytes and no text"))
    fields = {name: value for name, value in fields.items() if not isinstance(value, Embedded)}
    if not with_path:
        fields = {name: value for name, value in fields.items() if role_of(name, columns) != "path"}
    try:
        fields, notes, unused = _with_json(fields, columns)
    except (ValueError, RecursionError) as error:
        return Annotation(refused=("caption", f"column {JSON!r}: {error}"))
    annotation = from_fields(fields, columns, one_text=True)
    if annotation.refused and annotation.refused[0] == "columns":
        raise UserError(f"{table.path}: row {row.number}: {annotation.refused[1]}")
    annotation = replace(annotation, notes=(*annotation.notes, *notes), unused=unused)
    return _with_place(annotation, row, fields, table.has_encoding)


def _with_class_names(table: Table, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields with the number of a class accompanied by its name, where the table knows it."""
    fields = dict(fields)
    for column, names in table.names.items():
        number = fields.get(column)
        if isinstance(number, int) and 0 <= number < len(names) and role_of(column) in ("label", "class"):
            rest = {name: value for name, value in fields.items() if name != column}
            fields = {**rest, "label": number, "class": names[number]}
    return fields


def _with_json(
    fields: dict[str, Any], columns: ColumnsConfig
) -> tuple[dict[str, Any], tuple[str, ...], tuple[str, ...]]:
    """Return the fields with those in a column `json`, notes, and the carriers of text that are not used.

    As in a tar, a column of text goes before a text in JSON, and a label before a label there.
    """
    column = next((name for name in fields if plain(name) == JSON and role_of(name, columns) is None), None)
    if column is None or is_nothing(fields[column]):
        return fields, (), ()
    inner = _object(fields[column])
    own, theirs = by_role(fields, columns), by_role(inner, columns)
    dropped = {name for name, _ in theirs["path"]}
    unused: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    if own["text"] and theirs["text"]:
        dropped |= {name for name, _ in theirs["text"]}
        if any(value != own["text"][0][1] for _, value in theirs["text"]):
            unused = (JSON,)
    own_label, their_label = own["label"] + own["class"], theirs["label"] + theirs["class"]
    if own_label and their_label:
        dropped |= {name for name, _ in their_label}
        if not {str(value) for _, value in their_label} & {str(value) for _, value in own_label}:
            notes = (LABEL_UNUSED,)
    kept = {name: value for name, value in inner.items() if name not in dropped and name not in fields}
    return {**kept, **fields}, notes, unused


def _object(value: Any) -> Mapping[str, Any]:
    if isinstance(value, str):
        return json_object(value)
    if not isinstance(value, Mapping):
        raise ValueError("JSON is not an object")
    return value


def _with_place(
    annotation: Annotation, row: Row, fields: Mapping[str, Any], has_encoding: bool
) -> Annotation:
    """Return the annotation whose refusal says where bytes are of another encoding, and what reads them."""
    if annotation.refused is None or not annotation.refused[1].endswith("is not UTF-8"):
        return annotation
    for name, value in fields.items():
        byte = next((ord(c) - 0xDC00 for c in str(value) if 0xDC80 <= ord(c) <= 0xDCFF), None)
        if byte is not None:
            place = f"line {row.line}, " if row.line else ""
            how = f"; {readings(str(value).encode('utf-8', UNDECODED))}" if has_encoding else ""
            reason = f"{place}column {name!r}: not UTF-8 (byte 0x{byte:02x}){how}"
            return replace(annotation, refused=(annotation.refused[0], reason))
    return annotation
