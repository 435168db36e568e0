"""Values of JSON that hold no others: their types and limits, and how one that does not fit is described."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Sequence
from typing import Annotated, Any

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
    """The whole of a text matches `expression`.  meaning: the name of such a text in a refusal."""

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


class Mismatch(Exception):
    """A value that does not fit. place: the path to it, the innermost part first."""

    def __init__(self, expected: str, value: Any = _NONE) -> None:
        self.expected, self.value = expected, value
        self.place: list[str] = []

    def message(self) -> str:
        """Return the message: place, value, and what was expected."""
        place = "".join(reversed(self.place)).lstrip(".")
        if self.value is _NONE:
            return f"{place}: {self.expected}" if place else self.expected
        value = shown(self.value)
        return f"{place}={value}: expected {self.expected}" if place else f"{value}: expected {self.expected}"


def shown(value: Any) -> str:
    """Return a value as a message shows it: short, and on one line."""
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else f"a list of {len(value)}"
    try:
        text = json.dumps(value, ensure_ascii=False)
    except ValueError:  # an integer of thousands of digits
        return "a number of thousands of digits"
    return text if len(text) <= _SHOWN else f"{text[: _SHOWN - 1]}…"


def literal(choices: Sequence[Any]) -> Reader:
    """Return the function that takes one of these values, of the same type."""

    def read(value: Any) -> Any:
        for choice in choices:
            if type(value) is type(choice) and value == choice:
                return value
        raise Mismatch(" or ".join(map(str, choices)), value)

    return read


def narrowed(part: Reader, limits: Sequence[Any]) -> Reader:
    """Return `part` with limits, of which Range and Pattern are heeded."""

    ranges = [(limit.low, limit.high) for limit in limits if isinstance(limit, Range)]
    patterns = [
        (re.compile(limit.expression), limit.meaning) for limit in limits if isinstance(limit, Pattern)
    ]

    def read(value: Any) -> Any:
        found = part(value)
        for low, high in ranges:
            if not low <= found <= high:
                upper = "" if high == math.inf else f" to {high}"
                raise Mismatch(f"a number from {low}{upper}", value)
        for expression, meaning in patterns:
            if not expression.fullmatch(found):
                raise Mismatch(meaning, value)
        return found

    return read


def _int(value: Any) -> int:
    if type(value) is not int:
        raise Mismatch("an integer", value)
    if not -(2**63) <= value < 2**64:
        raise Mismatch("an integer of 64 bits", value)
    return value


def _float(value: Any) -> float:
    if type(value) not in (int, float):
        raise Mismatch("a number", value)
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Mismatch("a finite number", value)
    return number


def _of_type(kind: type, expected: str) -> Reader:
    def read(value: Any) -> Any:
        if type(value) is not kind:
            raise Mismatch(expected, value)
        return value

    return read


SCALARS: dict[Any, Reader] = {
    Any: lambda value: value,
    int: _int,
    float: _float,
    str: _of_type(str, "a text"),
    bool: _of_type(bool, "true or false"),
    None: _of_type(type(None), "null"),
    type(None): _of_type(type(None), "null"),
}
