"""JSON schemas: a type becomes a function that checks values, and converts them into that type.

A schema is `Any`, bool, int, float, str, None, `Literal`, a union, `list[X]`, `dict[str, X]`, a `TypedDict`
(further entries are kept), a frozen dataclass (further entries are refused), and from a JSON list
`tuple[X, ...]`, also called `Sequence[X]`, `tuple[X, Y]` or a `NamedTuple`. `Annotated[X, Range(...)]`
narrows a number, and `Annotated[str, Pattern(...)]` a text. A float is finite; an int is no float and no bool
and fits 64 bits.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NotRequired

from core.reading.json_records import bulk_reader
from core.reading.json_scalars import SCALARS, Mismatch, Reader, literal, narrowed, shown

_many: dict[Reader, Callable[[list[Any]], list[Any] | None]] = {}  # of a record's reader: of many at once


@functools.cache
def reader_of(schema: Any) -> Reader:
    """Make the function that checks and converts values of a schema; it raises Mismatch."""
    origin, arguments = typing.get_origin(schema), typing.get_args(schema)
    if schema in SCALARS:
        return SCALARS[schema]
    if origin is Annotated:
        return narrowed(reader_of(arguments[0]), arguments[1:])
    if origin is NotRequired:
        return reader_of(arguments[0])
    if origin is Literal:
        return literal(arguments)
    if origin in (typing.Union, types.UnionType):
        return _union(arguments)
    if origin is list:
        return _sequence(reader_of(arguments[0]), list)
    if origin is Sequence or (origin is tuple and arguments[-1] is Ellipsis):
        return _sequence(reader_of(arguments[0]), tuple)
    if origin is tuple:
        return _fixed([reader_of(kind) for kind in arguments], lambda parts: tuple(parts))
    if origin in (dict, Mapping):
        return _mapping(reader_of(arguments[0]), reader_of(arguments[1]))
    return _record(schema)


def _record(schema: Any) -> Reader:
    """Return the function for a class with named fields."""
    hints: dict[str, Any] = typing.get_type_hints(schema, include_extras=True)
    make: Callable[..., Any] = schema
    if hasattr(schema, "_fields"):
        return _fixed([reader_of(hints[name]) for name in schema._fields], lambda parts: make(*parts))
    if typing.is_typeddict(schema):
        # Where annotations are text (`from __future__ import annotations`), the class does not know of these.
        optional = {name for name, kind in hints.items() if typing.get_origin(kind) is NotRequired}
        optional |= schema.__optional_keys__
        return _object({name: reader_of(kind) for name, kind in hints.items()}, optional, keep=True)
    if not dataclasses.is_dataclass(schema):
        raise TypeError(f"{schema} is no schema of JSON")
    fields = [field for field in dataclasses.fields(schema) if field.init]
    missing = dataclasses.MISSING
    optional = {f.name for f in fields if f.default is not missing or f.default_factory is not missing}
    kinds = {field.name: hints[field.name] for field in fields}
    inner = _object({name: reader_of(kind) for name, kind in kinds.items()}, optional, keep=False)

    def read(value: Any) -> Any:
        found = inner(value)
        try:
            return make(**found)
        except ValueError as error:  # of its own checks
            raise Mismatch(str(error)) from None

    if many := bulk_reader(make, kinds):
        _many[read] = many
    return read


def _object(readers: Mapping[str, Reader], optional: set[str], *, keep: bool) -> Reader:
    def read(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Mismatch("an object", value)
        if lacking := readers.keys() - value.keys() - optional:
            raise Mismatch(f"{_named(lacking)} missing")
        if not keep and (unknown := value.keys() - readers.keys()):
            raise Mismatch(f"{_named(unknown)} not known")
        found = dict(value)
        for name, part in readers.items():
            if name in value:
                try:  # not by `_inside`: a manifest of 100,000 shards is read in half of the time
                    found[name] = part(value[name])
                except Mismatch as mismatch:
                    mismatch.place.append(f".{name}")
                    raise
        return found

    return read


def _named(names: set[str]) -> str:
    listed = ", ".join(shown(name) for name in sorted(names)[:5])
    return f"{listed} {'is' if len(names) == 1 else 'are'}"


def _mapping(name: Reader, part: Reader) -> Reader:
    def read(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Mismatch("an object", value)
        return {name(key): _inside(part, item, f".{key}") for key, item in value.items()}

    return read


def _sequence(part: Reader, kind: type[list[Any]] | type[tuple[Any, ...]]) -> Reader:
    def read(value: Any) -> Any:
        if not isinstance(value, list):
            raise Mismatch("a list", value)
        if part in _many and (quickly := _many[part](value)) is not None:
            return kind(quickly)
        found = []
        for number, item in enumerate(value):
            try:
                found.append(part(item))
            except Mismatch as mismatch:
                mismatch.place.append(f"[{number}]")
                raise
        return kind(found)

    return read


def _fixed(parts: Sequence[Reader], make: Callable[[list[Any]], Any]) -> Reader:
    def read(value: Any) -> Any:
        if not isinstance(value, list) or len(value) != len(parts):
            raise Mismatch(f"a list of {len(parts)}", value)
        pairs = zip(parts, value, strict=True)
        return make([_inside(part, item, f"[{n}]") for n, (part, item) in enumerate(pairs)])

    return read


def _inside(part: Reader, value: Any, place: str) -> Any:
    try:
        return part(value)
    except Mismatch as mismatch:
        mismatch.place.append(place)
        raise


def _union(kinds: Sequence[Any]) -> Reader:
    readers = [reader_of(kind) for kind in kinds]

    def read(value: Any) -> Any:
        problems = []
        for part in readers:
            try:
                return part(value)
            except Mismatch as mismatch:
                problems.append(mismatch)
        deepest = max(problems, key=lambda mismatch: len(mismatch.place))
        if deepest.place:
            raise deepest
        raise Mismatch(" or ".join(dict.fromkeys(problem.expected for problem in problems)), value)

    return read
