"""Schemas of JSON: a type is made into a function that checks values, and converts them into that type.

A schema is `Any`, bool, int, float, str, None, `Literal`, a union, `list[X]`, `dict[str, X]`, a `TypedDict`
(further entries are kept), a frozen dataclass (further entries are refused), and from a JSON list
`tuple[X, ...]`, `tuple[X, Y]` or a `NamedTuple`. `Annotated[X, Range(...)]` narrows a number, and
`Annotated[str, Pattern(...)]` a text. A float is finite; an int is no float and no bool and fits 64 bits.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NotRequired

Reader = Callable[[Any], Any]
_SHOWN = 60  # characters of a wrong value in a message
_NONE = object()


@dataclasses.dataclass(frozen=True)
class Range:
    """Inclusive bounds of a number."""

    low: float = -math.inf
    high: float = math.inf


@dataclasses.dataclass(frozen=True)
class Pattern:
    """The whole of a text matches `expression`.  meaning: what a refusal calls such a text."""

    expression: str
    meaning: str


Count = Annotated[int, Range(0, 2**63 - 1)]
U8 = Annotated[int, Range(0, 2**8 - 1)]
U16 = Annotated[int, Range(0, 2**16 - 1)]
U32 = Annotated[int, Range(0, 2**32 - 1)]
U64 = Annotated[int, Range(0, 2**64 - 1)]
I32 = Annotated[int, Range(-(2**31), 2**31 - 1)]
FileName = Annotated[str, Pattern(r"(?!\.{1,2}$)[^/\0]+", "a plain file name")]
_PART = r"(?!\.{1,2}(/|$))[^/\0]+"
BelowName = Annotated[str, Pattern(rf"{_PART}(/{_PART})*", "the name of a file in this folder or below it")]


class Wrong(Exception):
    """A value that does not fit. place: the way to it, the innermost part first."""

    def __init__(self, expected: str, value: Any = _NONE) -> None:
        self.expected, self.value = expected, value
        self.place: list[str] = []

    def told(self) -> str:
        place = "".join(reversed(self.place)).lstrip(".")
        if self.value is _NONE:
            return f"{place}: {self.expected}" if place else self.expected
        shown = _shown(self.value)
        return f"{place}={shown}: expected {self.expected}" if place else f"{shown}: expected {self.expected}"


def _shown(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else f"a list of {len(value)}"
    try:
        text = json.dumps(value, ensure_ascii=False)
    except ValueError:  # an integer of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


@functools.cache
def reader_of(schema: Any) -> Reader:
    """Make the function that checks and converts values of a schema; it raises Wrong."""
    origin, arguments = typing.get_origin(schema), typing.get_args(schema)
    if schema in _SCALARS:
        return _SCALARS[schema]
    if origin is Annotated:
        return _narrowed(reader_of(arguments[0]), arguments[1:])
    if origin is NotRequired:
        return reader_of(arguments[0])
    if origin is Literal:
        return _literal(arguments)
    if origin in (typing.Union, types.UnionType):
        return _union(arguments)
    if origin is list:
        return _sequence(reader_of(arguments[0]), list)
    if origin is tuple and arguments[-1] is Ellipsis:
        return _sequence(reader_of(arguments[0]), tuple)
    if origin is tuple:
        return _fixed([reader_of(kind) for kind in arguments], lambda parts: tuple(parts))
    if origin in (dict, Mapping):
        return _mapping(reader_of(arguments[0]), reader_of(arguments[1]))
    return _record(schema)


def _record(schema: Any) -> Reader:
    """The function for a class with named fields."""
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
    inner = _object({field.name: reader_of(hints[field.name]) for field in fields}, optional, keep=False)

    def read(value: Any) -> Any:
        found = inner(value)
        try:
            return make(**found)
        except ValueError as error:  # of its own checks
            raise Wrong(str(error)) from None

    return read


def _object(readers: Mapping[str, Reader], optional: set[str], *, keep: bool) -> Reader:
    def read(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Wrong("an object", value)
        if lacking := readers.keys() - value.keys() - optional:
            raise Wrong(f"{_named(lacking)} missing")
        if not keep and (unknown := value.keys() - readers.keys()):
            raise Wrong(f"{_named(unknown)} not known")
        return value | {
            name: _inside(part, value[name], f".{name}") for name, part in readers.items() if name in value
        }

    return read


def _named(names: set[str]) -> str:
    shown = ", ".join(_shown(name) for name in sorted(names)[:5])
    return f"{shown} {'is' if len(names) == 1 else 'are'}"


def _mapping(name: Reader, part: Reader) -> Reader:
    def read(value: Any) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise Wrong("an object", value)
        return {name(key): _inside(part, item, f".{key}") for key, item in value.items()}

    return read


def _sequence(part: Reader, kind: type[list[Any]] | type[tuple[Any, ...]]) -> Reader:
    def read(value: Any) -> Any:
        if not isinstance(value, list):
            raise Wrong("a list", value)
        return kind(_inside(part, item, f"[{number}]") for number, item in enumerate(value))

    return read


def _fixed(parts: Sequence[Reader], make: Callable[[list[Any]], Any]) -> Reader:
    def read(value: Any) -> Any:
        if not isinstance(value, list) or len(value) != len(parts):
            raise Wrong(f"a list of {len(parts)}", value)
        pairs = zip(parts, value, strict=True)
        return make([_inside(part, item, f"[{n}]") for n, (part, item) in enumerate(pairs)])

    return read


def _inside(part: Reader, value: Any, place: str) -> Any:
    try:
        return part(value)
    except Wrong as wrong:
        wrong.place.append(place)
        raise


def _union(kinds: Sequence[Any]) -> Reader:
    readers = [reader_of(kind) for kind in kinds]

    def read(value: Any) -> Any:
        problems = []
        for part in readers:
            try:
                return part(value)
            except Wrong as wrong:
                problems.append(wrong)
        deepest = max(problems, key=lambda wrong: len(wrong.place))
        if deepest.place:
            raise deepest
        raise Wrong(" or ".join(dict.fromkeys(problem.expected for problem in problems)), value)

    return read


def _literal(choices: Sequence[Any]) -> Reader:
    def read(value: Any) -> Any:
        for choice in choices:
            if type(value) is type(choice) and value == choice:
                return value
        raise Wrong(" or ".join(map(str, choices)), value)

    return read


def _narrowed(part: Reader, limits: Sequence[Any]) -> Reader:
    def read(value: Any) -> Any:
        found = part(value)
        for limit in limits:
            if isinstance(limit, Range) and not limit.low <= found <= limit.high:
                upper = "" if limit.high == math.inf else f" to {limit.high}"
                raise Wrong(f"a number from {limit.low}{upper}", value)
            if isinstance(limit, Pattern) and not re.fullmatch(limit.expression, found):
                raise Wrong(limit.meaning, value)
        return found

    return read


def _int(value: Any) -> int:
    if type(value) is not int:
        raise Wrong("an integer", value)
    if not -(2**63) <= value < 2**64:
        raise Wrong("an integer of 64 bits", value)
    return value


def _float(value: Any) -> float:
    if type(value) not in (int, float):
        raise Wrong("a number", value)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Wrong("a finite number", value)
    return number


def _of_type(kind: type, expected: str) -> Reader:
    def read(value: Any) -> Any:
        if type(value) is not kind:
            raise Wrong(expected, value)
        return value

    return read


_SCALARS: dict[Any, Reader] = {
    Any: lambda value: value,
    int: _int,
    float: _float,
    str: _of_type(str, "a text"),
    bool: _of_type(bool, "true or false"),
    None: _of_type(type(None), "null"),
    type(None): _of_type(type(None), "null"),
}
