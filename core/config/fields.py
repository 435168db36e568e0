"""The fields of a config schema: paths, types and defaults, for `--help` and for naming the nearest field."""

from __future__ import annotations

import dataclasses
import difflib
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from core.config.settings import REQUIRED, Role
from core.config.values import any_of, type_name
from core.errors import UserError

KIND = "kind"  # the field of a section that names which of several classes it is of
NOTHING: Mapping[Any, Any] = MappingProxyType({})


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
    """A field of a schema: its path, class, declaration, type and default.

    kinds: the names that the field may hold, where it is the `kind` of a section that has several.
    """

    path: str
    owner: type
    field: dataclasses.Field[Any]
    kind: Any
    default: Any
    kinds: tuple[str, ...] = ()

    @property
    def role(self) -> Role:
        """Return the role of the field when an output is continued."""
        role: Role = self.field.metadata.get("role", "result")
        return role


def describe(schema: type, given: Mapping[Any, Any] = NOTHING) -> list[FieldHelp]:
    """List every field of `schema` in the order of declaration, sections before their fields.

    given: values that may name the kinds of sections.
    """
    return [_described(place) for place in walk(schema, given=given)]


def _described(place: Place) -> FieldHelp:
    settings = place.field.metadata
    unit, meaning = settings.get("unit", ""), settings.get("help", "")
    if dataclasses.is_dataclass(place.kind):
        return FieldHelp(place.path, "section", "", unit, meaning, place.role)
    kind = settings.get("shown") or type_name(place.kind, settings.get("low"), settings.get("high"))
    if place.field.name == "preset" and (presets := presets_of(place.owner)):
        kind = "|".join(["''", *presets])
    if place.kinds:
        kind = "|".join(place.kinds)
        meaning += f"; {place.path}=KIND --help lists the fields of another" if len(place.kinds) > 1 else ""
    return FieldHelp(place.path, kind, _shown(place.default), unit, meaning, place.role)


def nearest(path: str, schema: type, given: Mapping[Any, Any] = NOTHING) -> str:
    """Name the field of `schema` whose path, or whose last name, is most like `path`."""
    last = path.rpartition(".")[2]

    def likeness(known: str) -> float:
        full = difflib.SequenceMatcher(None, path, known).ratio()
        return max(full, 0.95 * difflib.SequenceMatcher(None, last, known.rpartition(".")[2]).ratio())

    return max((place.path for place in walk(schema, given=given)), key=likeness)


def walk(
    schema: type,
    prefix: str = "",
    instance: Any = None,
    given: Mapping[Any, Any] = NOTHING,
    kinds: tuple[str, ...] = (),
) -> Iterator[Place]:
    """Yield every section and field, depth first; `instance` holds the defaults of a section.

    given: values that may name the kinds of sections.  kinds: the names of those that `schema` is one of.
    """
    for field, kind, default in fields_of(schema, given, prefix, instance):
        names = kinds if field.name == KIND else ()
        yield Place(prefix + field.name, schema, field, kind, default, names)
        if dataclasses.is_dataclass(kind):
            section, cls = f"{prefix}{field.name}.", typing.cast(type, kind)
            yield from walk(cls, section, default, section_of(given, field.name), tuple(kinds_of(field)))


def fields_of(
    schema: type, given: Mapping[Any, Any] = NOTHING, prefix: str = "", instance: Any = None
) -> Iterator[tuple[dataclasses.Field[Any], Any, Any]]:
    """Yield each field with its type and its default, those of `instance` where there is one.

    A section that has kinds is of the one that `given` names, else of that of its default; UserError for a
    name that is none of them. prefix: stands before a field's name in a message.
    """
    hints = typing.get_type_hints(schema)
    for field in dataclasses.fields(schema):
        default = _default(field) if instance is None else getattr(instance, field.name)
        if not (kinds := kinds_of(field)):
            yield field, hints[field.name], default
            continue
        name = section_of(given, field.name).get(KIND, getattr(default, KIND))
        if not isinstance(name, str) or name not in kinds:
            raise UserError(f"{prefix}{field.name}.{KIND}", name, any_of(list(kinds)))
        yield field, kinds[name], default if isinstance(default, kinds[name]) else kinds[name]()


def require_kinds(schema: type, given: Mapping[Any, Any]) -> None:
    """Raise UserError where `given` names a kind that a section does not have."""
    for _ in walk(schema, given=given):
        pass


def kinds_of(field: dataclasses.Field[Any]) -> Mapping[str, type]:
    """Return the classes that a section may be of, by name; empty where there is only one."""
    return field.metadata.get("kinds") or {}


def section_of(given: Any, name: str) -> Mapping[Any, Any]:
    """Return the part of `given` about a section; nothing where it is not taken apart into fields."""
    section = given.get(name) if isinstance(given, Mapping) else None
    return section if isinstance(section, Mapping) else NOTHING


def defaults_of(
    schema: type, given: Mapping[Any, Any] = NOTHING, instance: Any = None, *, earlier: bool = False
) -> dict[str, Any]:
    """Return the plain tree of all defaults; given, instance: as in `fields_of`.

    earlier: whether they are those that a record without the fields stands for.
    """
    return {
        field.name: defaults_of(
            typing.cast(type, kind), section_of(given, field.name), default, earlier=earlier
        )
        if dataclasses.is_dataclass(kind)
        else plain(earlier_value(field, default) if earlier else default)
        for field, kind, default in fields_of(schema, given, instance=instance)
    }


def earlier_value(field: dataclasses.Field[Any], default: Any) -> Any:
    """Return what a record without the field stands for; the default unless the field says otherwise."""
    value = field.metadata.get("earlier", dataclasses.MISSING)
    return default if value is dataclasses.MISSING else value


def presets_of(schema: type) -> Mapping[str, Any]:
    """Return the named instances of a section, empty for a section without presets."""
    return getattr(schema, "presets", {})


def to_dict(config: Any) -> dict[str, Any]:
    """Convert a config to what JSON and YAML hold: tuples become lists, paths text."""
    return {f.name: plain(getattr(config, f.name)) for f in dataclasses.fields(config)}


def plain(value: Any) -> Any:
    """Return the JSON form of one value, of a config, or of nested layers of them."""
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
