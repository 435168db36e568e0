"""Read one config value by its field's type, say what is accepted, and name the type for `--help`."""

from __future__ import annotations

import math
import types
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from core.errors import UserError

YES, NO = ("true", "yes", "on"), ("false", "no", "off")
QUOTES = "'\""  # an item of a list that starts with one ends with the same


class Typed(str):
    """Text typed on the command line, where nothing is quoted and only the field knows the type."""


def read_value(value: Any, kind: Any, path: str, low: float | None = None, high: float | None = None) -> Any:
    """Read `value` (text, or what YAML made of it) as `kind`; low and high are inclusive bounds of numbers.

    kind: str, bool, int, float, Path, Literal, a tuple of these, `X | None`, or `X | Literal[...]`.
    Raises UserError naming `path`, the value and what is accepted.
    """
    if (inner := optional_of(kind)) is not None:
        if value is None or (isinstance(value, Typed) and value.lower() == "null"):
            return None
        try:
            return read_value(value, inner, path, low, high)
        except UserError as error:
            raise UserError(error.field, error.value, f"{error.expected}, or null") from None
    if typing.get_origin(kind) is tuple:
        return _read_tuple(value, kind, path, low, high)
    if (either := words_of(kind)) is not None:
        words, other = either
        if value in typing.get_args(words):
            return _read_literal(value, words)
        try:
            return read_value(value, other, path, low, high)
        except UserError as error:
            raise UserError(error.field, error.value, accepted(kind, low, high)) from None
    try:
        result = _read_literal(value, kind) if typing.get_origin(kind) is Literal else _SCALARS[kind](value)
    except (ValueError, OverflowError):
        raise UserError(path, value, accepted(kind, low, high)) from None
    if (low is not None and result < low) or (high is not None and result > high):
        raise UserError(path, value, accepted(kind, low, high))
    return result


def _read_tuple(value: Any, kind: Any, path: str, low: float | None, high: float | None) -> tuple[Any, ...]:
    kinds = typing.get_args(kind)
    if isinstance(value, str) and kinds[0] is str and ", " in value and value.strip()[0] not in f"[{QUOTES}":
        expected = f"{path}='[\"{value}\"]' for one text, or {path}='[{value}]' for several"
        raise UserError(path, value, expected)
    try:
        items = _split(value) if isinstance(value, str) else value
    except ValueError:
        expected = f"{accepted(kind, low, high)}; a quote that starts an item ends it"
        raise UserError(path, value, expected) from None
    if not isinstance(items, list | tuple):
        raise UserError(path, value, accepted(kind, low, high))
    if kinds[-1] is Ellipsis:
        kinds = (kinds[0],) * len(items)
    if len(items) != len(kinds):
        raise UserError(path, value, accepted(kind, low, high))
    pairs = zip(items, kinds, strict=True)
    return tuple(read_value(item, k, f"{path}[{i}]", low, high) for i, (item, k) in enumerate(pairs))


def _split(text: str) -> list[str]:
    """Split "[1,2]", "1, 2" or "[[1,2],[3,4]]" at its outermost commas; "[]" and "" are empty.

    An item in single or double quotes keeps its commas and brackets: ["a fox, running", cats].
    Raises ValueError for a quote that is not closed, or text behind a closing one.
    """
    parts = _at_commas(text.strip())
    if len(parts) == 1 and parts[0][:1] == "[" and parts[0][-1:] == "]":
        parts = _at_commas(parts[0][1:-1])
    return [] if parts == [""] else [Typed(_unquoted(part.strip())) for part in parts]


def _at_commas(text: str) -> list[str]:
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote and parts[-1][-1] != "\\" else quote
        elif character in QUOTES and parts[-1].strip("[ ") == "":
            quote = character
        depth += not quote and (character == "[") - (character == "]")
        if character == "," and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def text_of(typed: str) -> str:
    """Return the one text that was typed, without quotes around it."""
    text = typed.strip()
    try:
        return _unquoted(text)
    except ValueError:  # a quote that is part of it
        return text


def _unquoted(item: str) -> str:
    quote = item[:1]
    if not quote or quote not in QUOTES:
        return item
    inner = item[1:-1].replace(f"\\{quote}", "\0")
    if len(item) < 2 or item[-1] != quote or quote in inner:
        raise ValueError
    return inner.replace("\0", quote)


def _read_literal(value: Any, kind: Any) -> Any:
    for choice in typing.get_args(kind):
        if value == choice and type(value) in (type(choice), Typed):
            return choice
        if isinstance(value, str) and value == str(choice):
            return choice
    raise ValueError


def _read_str(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError
    return str(value)


def _read_path(value: Any) -> Path:
    if isinstance(value, Path):
        return value
    if not _read_str(value) or "\0" in value:
        raise ValueError
    return Path(value)


def expanded(value: Any, path: str) -> Any:
    """Replace a leading `~` of a path, or of each path of a tuple, by the home folder that it names."""
    if isinstance(value, tuple):
        return tuple(expanded(item, path) for item in value)
    if not isinstance(value, str | Path) or not str(value).startswith("~"):
        return value
    try:
        return type(value)(Path(value).expanduser())
    except RuntimeError:
        raise UserError(path, value, "a path; no such user, and ./~ is a folder of that name") from None


def _read_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    word = _read_str(value).lower()
    if word not in YES + NO:
        raise ValueError
    return word in YES


def _read_int(value: Any) -> int:
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            value = float(value)  # people write 1e6 for an integer
    if isinstance(value, bool) or not isinstance(value, int | float) or value != math.floor(value):
        raise ValueError
    return int(value)


def _read_float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str) or not math.isfinite(float(value)):
        raise ValueError
    return float(value)


_SCALARS: dict[Any, Callable[[Any], Any]] = {
    str: _read_str,
    Path: _read_path,
    bool: _read_bool,
    int: _read_int,
    float: _read_float,
}
_NAMES = {str: ("text", "text"), Path: ("path", "a path"), bool: ("true|false", "true or false")}
_NUMBERS = {int: ("int", "an integer"), float: ("number", "a finite number")}


def optional_of(kind: Any) -> Any:
    """Return X of `X | None`, and None for a kind that is not optional."""
    if typing.get_origin(kind) not in (types.UnionType, typing.Union):
        return None
    inner = [k for k in typing.get_args(kind) if k is not type(None)]
    return inner[0] if len(inner) == 1 and len(typing.get_args(kind)) == 2 else None


def words_of(kind: Any) -> tuple[Any, Any] | None:
    """Split `X | Literal[...]` into the Literal and X; return None for another kind."""
    parts = typing.get_args(kind) if typing.get_origin(kind) in (types.UnionType, typing.Union) else ()
    words = [part for part in parts if typing.get_origin(part) is Literal]
    others = [part for part in parts if part not in words]
    return (words[0], others[0]) if len(parts) == 2 and len(words) == 1 else None


def accepted(kind: Any, low: float | None = None, high: float | None = None) -> str:
    """Return the text after "expected" in a refusal."""
    if (inner := optional_of(kind)) is not None:
        return f"{accepted(inner, low, high)}, or null"
    if (either := words_of(kind)) is not None:
        return f"{accepted(either[0])}, or {accepted(either[1], low, high)}"
    if typing.get_origin(kind) is Literal:
        return any_of([str(choice) for choice in typing.get_args(kind)])
    if typing.get_origin(kind) is tuple:
        first, *rest = typing.get_args(kind)
        count = "a list" if Ellipsis in rest else f"a list of {len(rest) + 1}"
        return f"{count}, each {accepted(first, low, high)}"
    if kind not in _NUMBERS:
        return "text (in a file, quote it)" if kind is str else _NAMES[kind][1]
    bounds = {(True, True): " from {} to {}", (True, False): ", at least {}", (False, True): ", at most {1}"}
    shown = bounds.get((low is not None, high is not None), "")
    return _NUMBERS[kind][1] + shown.format(low, high)


def any_of(choices: list[str]) -> str:
    """Join as "0, 1 or 2"."""
    shown = [choice or "''" for choice in choices]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} or {shown[-1]}"


def type_name(kind: Any, low: float | None = None, high: float | None = None) -> str:
    """Return the type as `--help` shows it: `int 0..3`, `adamw|sgd`, `(int, int)`, `[number, ...]`."""
    if (inner := optional_of(kind)) is not None:
        return f"{type_name(inner, low, high)}|null"
    if (either := words_of(kind)) is not None:
        return f"{type_name(either[0])}|{type_name(either[1], low, high)}"
    if typing.get_origin(kind) is Literal:
        return "|".join(str(choice) or "''" for choice in typing.get_args(kind))
    if typing.get_origin(kind) is tuple:
        kinds = typing.get_args(kind)
        if kinds[-1] is Ellipsis:
            return f"[{type_name(kinds[0], low, high)}, ...]"
        return f"({', '.join(type_name(k, low, high) for k in kinds)})"
    if kind not in _NUMBERS:
        return _NAMES[kind][0]
    bounds = {(True, True): " {}..{}", (True, False): " >= {}", (False, True): " <= {1}"}
    return _NUMBERS[kind][0] + bounds.get((low is not None, high is not None), "").format(low, high)
