"""The fields of a config schema: their paths, types and defaults, for `--help` and for naming the nearest."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from core.config.settings import REQUIRED, Role
from core.config.values import type_name


@dataclass(frozen=True)
class FieldHelp:
    """One line of `--help`; a section has the type "section" and stands before its fields."""

    path: str
    type: str
    default: str
    unit: str
    help: str
    role: Role = "result"


class Place(NamedTuple):
    """A field of a schema: where it is, of which class, its declaration, its type and its default."""

    path: str
    owner: type
    field: dataclasses.Field[Any]
    kind: Any
    default: Any

    @property
    def role(self) -> Role:
        """What the field is to an output that is continued."""
        role: Role = self.field.metadata.get("role", "result")
        return role


def describe(schema: type) -> list[FieldHelp]:
    """List every field of `schema` in the order of declaration, sections before their fields."""
    return [_described(place) for place in walk(schema)]


def _described(place: Place) -> FieldHelp:
    settings = place.field.metadata
    unit, meaning = settings.get("unit", ""), settings.get("help", "")
    if dataclasses.is_dataclass(place.kind):
        return FieldHelp(place.path, "section", "", unit, meaning, place.role)
    kind = settings.get("shown") or type_name(place.kind, settings.get("low"), settings.get("high"))
    if place.field.name == "preset" and (presets := presets_of(place.owner)):
        kind = "|".join(["''", *presets])
    return FieldHelp(place.path, kind, _shown(place.default), unit, meaning, place.role)


def nearest(path: str, schema: type) -> str:
    """Name the field of `schema` whose path, or whose last name, is most like `path`."""
    last = path.rpartition(".")[2]

    def likeness(known: str) -> float:
        full = difflib.SequenceMatcher(None, path, known).ratio()
        return max(full, 0.95 * difflib.SequenceMatcher(None, last, known.rpartition(".")[2]).ratio())

    return max((place.path for place in walk(schema)), key=likeness)


def walk(schema: type, prefix: str = "", instance: Any = None) -> Iterator[Place]:
    """Yield every section and field, depth first; `instance` holds the defaults of a section."""
    for field, kind in fields_of(schema):
        default = _default(field) if instance is None else getattr(instance, field.name)
        yield Place(prefix + field.name, schema, field, kind, default)
        if dataclasses.is_dataclass(kind):
            yield from walk(typing.cast(type, kind), f"{prefix}{field.name}.", default)


def fields_of(schema: type) -> Iterator[tuple[dataclasses.Field[Any], Any]]:
    """Yield each field with its type; annotations that are text are looked up."""
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        yield field, hints[field.name]


def defaults_of(schema: type) -> dict[str, Any]:
    """The plain tree of all defaults."""
    return {field.name: plain(_default(field)) for field, _ in fields_of(schema)}


def presets_of(schema: type) -> Mapping[str, Any]:
    """The named instances of a section, empty for a section without presets."""
    return getattr(schema, "presets", {})


def to_dict(config: Any) -> dict[str, Any]:
    """Take a config apart into what JSON and YAML hold: tuples become lists, paths text."""
    return {f.name: plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def plain(value: Any) -> Any:
    """The JSON form of one value, of a config, or of nested layers of them."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_dict(value)
    if isinstance(value, Mapping):
        return {name: plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return REQUIRED if field.default is dataclasses.MISSING else field.default


def _shown(default: Any) -> str:
    value = plain(default)
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return {"": "''", REQUIRED: "required"}.get(str(value), str(value))
