"""Class numbers and names as people write them: `2`, `2.0`, `2,0`, `+2`, `cat`, `[2]`.

What is neither sets its sample aside (stage `label`), and `classes=false` packs it without.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from data.raw.annotations.quoted_lists import quoted_list
from data.raw.annotations.roles import is_nothing
from data.raw.annotations.several import CaptionError

LABEL = "label"  # stage of a sample set aside for its label
LARGEST_LABEL = 2**31 - 1
_NUMBER = re.compile(r"[-+]?[0-9]*[.,]?[0-9]+([eE][-+]?[0-9]+)?")
# 1,000 is a thousand to some and one to others; 1.000 is what programs write for one.
_MARKED = re.compile(r"[-+]?[0-9]{1,3}(?:(?:[,'\u2019 \xa0\u202f][0-9]{3})+|(?:\.[0-9]{3}){2,})")
WAY = "classes=false packs without labels"
_NUMBERS = re.compile(r"\[\s*([^][\"'A-Za-z]*)\]")


def label_and_class(labels: list[tuple[str, Any]], names: list[tuple[str, Any]]) -> tuple[int, str]:
    """Return class number (-1: none) and name ("": none) of the filled fields of a sample.

    A number alone is the label, whatever its column; a word alone is the name. Truth values are the words
    `false` and `true`, as CSV has them. CaptionError where the fields contradict each other or hold no label.
    """
    labels, names = _each_alone(labels), _each_alone(names)
    words = list(dict.fromkeys(str(value).strip() for _, value in names))
    if len(words) > 1:
        first, second = names[0][0], names[1][0]
        raise CaptionError(
            f"{first!r} and {second!r} differ; columns.label=NAME says which is meant", "columns"
        )
    if not labels:
        try:
            return (read_label(names[0][1]), "") if names else (-1, "")
        except ValueError:
            return -1, words[0]
    value, name = labels[0][1], words[0] if words else ""
    try:
        return read_label(value), name
    except ValueError as error:
        is_word = isinstance(value, str) and not _NUMBER.fullmatch(value.strip())
        if not is_word or (name and name != value.strip()):
            raise _refused(str(error)) from None
    return -1, value.strip()


def read_label(value: Any) -> int:
    """Parse a class number, also `2.0`, `2,0` (a decimal comma), `+2` or `2e0`.

    -1 for none. ValueError if it is not a whole number.
    """
    if is_nothing(value):
        return -1
    refused = ValueError(f"label {str(value)[:40]!r} is not a whole number")
    if isinstance(value, str):
        if "_" in value:  # a word, though Python reads 2020_12 as a number
            raise refused
        value = re.sub(r",0+\s*$", "", value)
    if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]+\s*", value):
        value = int(value) if len(value) < 40 else float(value)
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        raise refused from None
    if isinstance(value, bool) or not number.is_integer():
        raise ValueError(f"label {value!r} is not a whole number")
    if not -1 <= number <= LARGEST_LABEL:
        raise ValueError(f"label {str(value)[:40]} is out of range")
    return int(number)


def _each_alone(found: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """Return the fields with their one value each; those that hold none (an empty list) are left out."""
    alone = [(name, _alone(name, value)) for name, value in found]
    return [(name, value) for name, value in alone if not is_nothing(value)]


def _alone(name: str, value: Any) -> Any:
    """Return the one word or number in a field, also out of a list; CaptionError where it holds no label."""
    if isinstance(value, str):
        value = _listed(value)
    if isinstance(value, list | tuple):
        if len(value) > 1 or any(isinstance(part, list | tuple) for part in value):
            raise _refused(f"{name} holds {len(value)} values, and a sample has one label or none; {WAY}")
        return _alone(name, value[0]) if value else None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping) or (isinstance(value, str) and re.fullmatch(r"\s*\{.*\}\s*", value)):
        raise _refused(f"{name} holds an object, and a label is a number or a name; {WAY}")
    if isinstance(value, str):
        if any(ord(letter) < 32 for letter in value.strip()):
            raise _refused(f"{name} is not one line of text; {WAY}")
        if _MARKED.fullmatch(value.strip()):
            raise _refused(f"label {value.strip()!r} has marks of thousands or a fraction; write it plainly")
    elif not hasattr(value, "__float__"):
        raise _refused(f"{name} is not a text but {type(value).__name__}")
    return value


def _refused(reason: str) -> CaptionError:
    return CaptionError(reason, LABEL)


def _listed(text: str) -> Any:
    """Return the parts of a text that is a list of quoted words or of numbers, the text itself otherwise."""
    if (words := quoted_list(text)) is not None:
        return words
    if numbers := _NUMBERS.fullmatch(text.strip()):
        return re.split(r"[\s,;]+", numbers[1].strip(" ,"))
    return text
