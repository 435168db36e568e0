"""Build a frozen dataclass from layers of values, checked by its fields' types and merged."""

from __future__ import annotations

import dataclasses
import functools
import typing
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from core.config.fields import (
    KIND,
    defaults_of,
    earlier_value,
    fields_of,
    kinds_of,
    nearest,
    presets_of,
    section_of,
    to_dict,
    walk,
)
from core.config.settings import REQUIRED
from core.config.values import any_of, expanded, read_value
from core.errors import UserError

T = TypeVar("T")


class _Root(NamedTuple):
    """A whole schema and the values given for it, to look for the field nearest to a wrong name."""

    schema: type
    given: Mapping[str, Any]


def check(
    values: Any, schema: type, given: Mapping[str, Any], path: str = "", root: _Root | None = None
) -> dict[str, Any]:
    """Check the given values by the types of their fields; the result is as partial as `values`.

    given: everything that any layer says of the section, which names the kinds of sections.
    """
    root = root or _Root(schema, given)
    prefix = f"{path}." if path else ""
    fields = {field.name: (field, kind) for field, kind, _ in fields_of(schema, given, prefix)}
    if not isinstance(values, Mapping):
        raise UserError(
            f"{path}={values}: a section; set its fields, such as {path}.{next(iter(fields))}=..."
        )
    checked = {}
    for name, value in values.items():
        where = f"{prefix}{name}"
        if name not in fields:
            raise UserError(f"{where}: no such field; the nearest is {nearest(where, *root)}")
        field, kind = fields[name]
        low, high = field.metadata.get("low"), field.metadata.get("high")
        if dataclasses.is_dataclass(kind):
            inner = section_of(given, name)
            if kinds_of(field) and isinstance(value, Mapping) and KIND in value:
                value = {**value, KIND: inner[KIND]}  # a later layer may have named another
            checked[name] = check(value, typing.cast(type, kind), inner, where, root)
        elif isinstance(value, Mapping):
            raise UserError(f"{where}.{next(iter(value), '')}: no such field; {where} holds one value")
        else:
            read = value if value == REQUIRED else read_value(value, kind, where, low, high)
            is_path = kind is Path or "path" in field.metadata.get("shown", "")
            checked[name] = expanded(read, where) if is_path else read
    return checked


def assemble(schema: type[T], layers: Sequence[Mapping[str, Any]], given: Mapping[str, Any]) -> T:
    """Build the config from checked layers, over the presets that they name and the defaults.

    A schema with a method `implied` returns the defaults that differ where certain fields are given.
    """
    follows = getattr(schema, "implied", None)
    implied = follows(given) if follows else {}
    presets = _preset_layers(schema, layers, given)
    return _built(schema, merge([defaults_of(schema, given), implied, *presets, *layers]), given)


def _preset_layers(
    schema: type,
    layers: Sequence[Mapping[str, Any]],
    given: Mapping[str, Any],
    path: tuple[str, ...] = (),
) -> Iterator[dict[str, Any]]:
    """Return, for each section with presets, the values of the preset named last, outer sections first."""
    presets, named = presets_of(schema), [layer["preset"] for layer in layers if "preset" in layer]
    if presets and named and named[-1]:
        if named[-1] not in presets:
            raise UserError(".".join([*path, "preset"]), named[-1], any_of(list(presets)))
        yield under(path, to_dict(presets[named[-1]]))
    for field, kind, _ in fields_of(schema, given):
        if dataclasses.is_dataclass(kind):
            inner = [layer[field.name] for layer in layers if field.name in layer]
            of_section = section_of(given, field.name)
            yield from _preset_layers(typing.cast(type, kind), inner, of_section, (*path, field.name))


def _built(schema: type[T], values: Mapping[str, Any], given: Mapping[str, Any], path: str = "") -> T:
    """Construct `schema`; a refusal of a section's `__post_init__` gets the section's path in front."""
    arguments: dict[str, Any] = {}
    for field, kind, _ in fields_of(schema, given):
        where, value = f"{path}.{field.name}" if path else field.name, values[field.name]
        if dataclasses.is_dataclass(kind):
            arguments[field.name] = _built(
                typing.cast(type, kind), value, section_of(given, field.name), where
            )
        elif value == REQUIRED:
            raise UserError(f"{where}: required but not given: {field.metadata.get('help', '')}")
        else:
            arguments[field.name] = read_value(value, kind, where)
    try:
        return schema(**arguments)
    except UserError as error:
        if not path:
            raise
        if error.expected is None:
            raise UserError(f"{path}: {error}") from None
        raise UserError(f"{path}.{error.field}", error.value, error.expected) from None


def merge(layers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Merge layers into one; a later value wins, and a value and a section replace each other."""
    return functools.reduce(over, layers, {})


def over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Merge two layers, of which the second wins."""
    sections = {name: part for name, part in above.items() if isinstance(part, Mapping)}
    inner = {name: over(section_of(below, name), part) for name, part in sections.items()}
    return {**below, **above, **inner}


def earlier_layer(schema: type, path: str) -> dict[str, Any]:
    """Return what records without a field stand for, nested; {} where that is its default."""
    (field,) = (place.field for place in walk(schema) if place.path == path)
    value = earlier_value(field, dataclasses.MISSING)
    return {} if value is dataclasses.MISSING else under(path.split("."), value)


def under(path: Sequence[str], tree: Any) -> dict[str, Any]:
    """Put a tree below the names of `path`."""
    for name in reversed(path):
        tree = {name: tree}
    return typing.cast(dict[str, Any], tree)
