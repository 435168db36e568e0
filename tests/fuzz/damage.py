"""Damage to the bytes of one file, as decay, a torn write, a foreign program or an attacker cause it.

A `Damage` is a kind and three numbers, from which the place and the value follow for a file of any length, so
that Hypothesis can make it smaller.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from core.files import sealed

WRONG_JSON = (
    *(
        "null",
        "true",
        "-1",
        "0",
        "1",
        "18446744073709551616",
        "9" * 400,
        "1e400",
        "-1e400",
        "NaN",
        "0.5",
        '""',
    ),
    *('"x"', '"\\ud800"', '"\\u0000"', '"../../x"', '"' + "x" * 5000 + '"', "[]", "{}", "[[]]", '{"": null}'),
    *(
        "[1]",
        '[null, 1, "x"]',
        '{"x": {"y": [1]}}',
        "[" * 2000 + "]" * 2000,
        "9" * 5000,
        '"\\u001b[31m"',
        "1e18",
    ),
)
WRONG_YAML = (
    *(
        "!!int abc",
        "!!timestamp abc",
        "!!float x",
        "!!bool x",
        "!!binary x",
        "!!python/name:os.system",
        "0x_",
    ),
    *("&a [*a]", "*a", "<<: 5", "{a: b}", "[1, 2]", "~", "2001-99-99", "1e999", "-.inf", ".nan", "9" * 5000),
    *("? [a]", "'\\ud800'", '"\\ud800"', "0b", "1_000:60", "@", "`", "!x y", "'", "---", "- 1", "1:", "\t"),
)
NOT_UTF8 = (b"\xff\xfe", b"\xed\xa0\x80", b"\x00", b"\xc3", b"\r\n", b"\x1b[31m", b"\xf4\x90\x80\x80")
HEADERS = 160  # bytes from a place where a header begins that damage to headers falls into


@dataclass(frozen=True)
class Damage:
    """One damage. The kind decides what place, amount and value mean; each is taken modulo what there is."""

    kind: str
    place: int
    amount: int
    value: int


def damages(suffix: str) -> st.SearchStrategy[Damage]:
    """Return the strategy of damages for a file with this suffix."""
    kinds = [*BYTES, *(TEXTS if suffix in TEXT_SUFFIXES else ()), *OF_SUFFIX.get(suffix, ())]
    number = st.integers(0, 2**32 - 1)
    return st.builds(Damage, st.sampled_from(kinds), number, number, number)


def apply(damage: Damage, path: Path) -> None:
    """Damage a file; if the damage does not fit its content, cut it off in the middle."""
    if damage.kind == "gone":
        path.unlink()
        return
    data = path.read_bytes()
    try:
        changed = _KINDS[damage.kind](data, damage)
    except (ValueError, LookupError, ZeroDivisionError, RecursionError):
        changed = data[: len(data) // 2]
    path.write_bytes(changed)


def _flip(data: bytes, damage: Damage) -> bytes:
    place = damage.place % len(data)
    return data[:place] + bytes([data[place] ^ (1 << damage.value % 8)]) + data[place + 1 :]


def _flip_in_header(data: bytes, damage: Damage) -> bytes:
    """Flip one bit near the beginning of the file or of one of its blocks of 512 bytes, as tars have them."""
    start = damage.amount % (len(data) // 512 + 1) * 512 if damage.value & 8 else 0
    place = min(start + damage.place % HEADERS, len(data) - 1)
    return data[:place] + bytes([data[place] ^ (1 << damage.value % 8)]) + data[place + 1 :]


def _set(data: bytes, damage: Damage) -> bytes:
    place, length = damage.place % len(data), 1 + damage.amount % 8
    return data[:place] + bytes([(0, 255, 127, 128)[damage.value % 4]]) * length + data[place + length :]


def _truncate(data: bytes, damage: Damage) -> bytes:
    return data[: damage.place % len(data)]


def _empty(data: bytes, damage: Damage) -> bytes:
    return b""


def _delete(data: bytes, damage: Damage) -> bytes:
    place = damage.place % len(data)
    return data[:place] + data[place + 1 + damage.amount % 64 :]


def _repeat(data: bytes, damage: Damage) -> bytes:
    place = damage.place % len(data)
    stop = place + 1 + damage.amount % 600
    return data[:stop] + data[place:]


def _append(data: bytes, damage: Damage) -> bytes:
    return data + (b"\0", b"x", b"\xff" * 100, data[-100:], b"\n")[damage.value % 5]


def _digits(data: bytes, damage: Damage) -> bytes:
    """Replace a number that is written as text by another."""
    found = list(re.finditer(rb"-?\d+(\.\d+)?", data))
    match = found[damage.place % len(found)]
    number = (b"-1", b"0", b"4294967296", b"9" * 30, b"1e400", b"NaN", b"1.5", b"99999")[damage.value % 8]
    return data[: match.start()] + number + data[match.end() :]


def _insert(data: bytes, damage: Damage) -> bytes:
    place = damage.place % (len(data) + 1)
    return data[:place] + NOT_UTF8[damage.value % len(NOT_UTF8)] + data[place:]


def _json(data: bytes, damage: Damage) -> bytes:
    """Replace, remove, add or rename one part of a JSON value."""
    return _changed(json.loads(data), damage)


def _sealed_json(data: bytes, damage: Damage) -> bytes:
    """Do the same in a record that holds its own hash, and make it fit: a record of another writer."""
    changed = _changed(json.loads(data), damage)
    content = json.loads(changed)
    return json.dumps(sealed(content)).encode() if isinstance(content, dict) else changed


def _json_line(data: bytes, damage: Damage) -> bytes:
    lines = data.split(b"\n")
    number = damage.amount % max(1, len(lines) - 1)
    lines[number] = _changed(json.loads(lines[number]), damage)
    return b"\n".join(lines)


_HOLE = "\ue000"  # stands where a text that JSON cannot write goes


def _changed(content: Any, damage: Damage) -> bytes:
    places = list(_places(content, ()))
    way = places[damage.place % len(places)]
    wrong = WRONG_JSON[damage.value % len(WRONG_JSON)]
    if not way:
        return wrong.encode()
    owner = content
    for part in way[:-1]:
        owner = owner[part]
    action = damage.amount % 6
    if action == 0:
        del owner[way[-1]]
    elif action == 1 and isinstance(owner, dict):
        owner["another"] = _HOLE
    elif action == 2 and isinstance(owner, dict):
        owner[f"{way[-1]}x"] = owner.pop(way[-1])
    elif action == 1:
        owner.insert(way[-1], _HOLE)
    else:
        owner[way[-1]] = _HOLE
    return json.dumps(content, ensure_ascii=False).replace(f'"{_HOLE}"', wrong).encode()


def _places(content: Any, way: tuple[Any, ...]) -> Any:
    """Return every path into a JSON value, the value itself first; of long lists the first parts."""
    yield way
    if isinstance(content, dict):
        for name, part in content.items():
            yield from _places(part, (*way, name))
    elif isinstance(content, list):
        for number, part in enumerate(content[:4]):
            yield from _places(part, (*way, number))


def _yaml(data: bytes, damage: Damage) -> bytes:
    """Change the value in a line `name: value`, or add such a line."""
    lines = data.decode().splitlines()
    numbers = [number for number, line in enumerate(lines) if re.match(r" *[\w.]+:", line)]
    number, wrong = numbers[damage.place % len(numbers)], WRONG_YAML[damage.value % len(WRONG_YAML)]
    name = lines[number].partition(":")[0]
    if damage.amount % 4 == 0:
        lines.insert(number, wrong)
    else:
        lines[number] = f"{name}: {wrong}"
    return "\n".join(lines).encode()


BYTES = ("flip", "flip in header", "set", "truncate", "empty", "delete", "repeat", "append", "gone")
TEXTS = ("insert", "digits")
TEXT_SUFFIXES = (".json", ".jsonl", ".yaml", ".txt", ".csv", ".lock", ".lease", ".cls", ".npy", ".tar")
OF_SUFFIX = {
    ".json": ("json",) * 9 + ("sealed json",) * 3,
    ".lock": ("json",) * 9,
    ".lease": ("json",) * 9,
    ".jsonl": ("json line",) * 9,
    ".yaml": ("yaml",) * 9,
    ".npy": ("flip in header",) * 6,
    ".tar": ("flip in header",) * 9,
    ".safetensors": ("flip in header",) * 6,
    ".npz": ("flip in header",) * 3,
    ".mp4": ("flip in header",) * 6,
    ".png": ("flip in header",) * 6,
}
_KINDS: dict[str, Callable[[bytes, Damage], bytes]] = {
    "flip": _flip,
    "flip in header": _flip_in_header,
    "set": _set,
    "truncate": _truncate,
    "empty": _empty,
    "delete": _delete,
    "repeat": _repeat,
    "append": _append,
    "digits": _digits,
    "insert": _insert,
    "json": _json,
    "sealed json": _sealed_json,
    "json line": _json_line,
    "yaml": _yaml,
}
