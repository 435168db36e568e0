"""Compare the config that an output was made with and the present one, and refuse what may not differ."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from core.config.fields import walk
from core.config.loading import difference, to_dict, with_defaults
from core.config.settings import Role
from core.errors import UserError
from core.run.ways_out import ways_out

OUTPUT = "output"  # the field that names the claimed folder itself, which may have moved

SHOWN_DIGITS = 12  # of a fingerprint

Content = Mapping[str, Any]
Contents = Callable[[str], tuple[Content | None, Content]]
"""Takes the path of a field that names a place. Returns what the output records of the content it was made
from, None where it records nothing, and the same of what lies at the place that the field names now."""


def nothing_recorded(path: str) -> tuple[None, Content]:
    """Return the `Contents` of a job that records no content."""
    return None, {}


class Change(NamedTuple):
    """A field with its value in the record, its value now, and its role."""

    path: str
    before: Any
    now: Any
    role: Role


def changes(recorded: Mapping[str, Any], config: Any) -> list[Change]:
    """List the fields whose values differ; a place that is only spelled otherwise is left out.

    A field that an earlier version did not have counts as what a record without it stands for (`setting`'s
    `earlier`), which is today's default where nothing else is said. One that is no longer known counts as
    deciding the result.
    """
    schema = type(config)
    roles = {place.path: place.role for place in walk(schema, given=to_dict(config))}
    before = with_defaults(recorded, schema)
    found = [Change(*leaf, roles.get(leaf[0], "result")) for leaf in difference(before, to_dict(config))]
    return [change for change in found if change.role != "place" or not _is_one_place(*change[1:3])]


def shown(value: Any) -> Any:
    """Return a value as refusals show it: text that is empty as ''."""
    return "''" if value == "" else value


def unlike(change: Change, contents: Contents, output: Path) -> str:
    """Return why the present content of a place cannot stand for the recorded one; "" if it can."""
    recorded, found = contents(change.path)
    differs = difference(recorded or {}, found)
    if recorded is not None and not differs:
        return ""
    if all(before is None for _, before, _ in differs):
        unsaid = "; nothing in it says what lay there" if change.before else ""
        return f"{shown(change.before)}, with which {output} was made{unsaid}"
    was = ", ".join(f"{name}={_short(before)}" for name, before, _ in differs)
    now = ", ".join(_short(value) for *_, value in differs)
    return f"what {output} was made from, with {was}; this has {now}"


def replaced(config: Any, contents: Contents, output: str) -> tuple[str, Any, str] | None:
    """Return the first field that names a place whose content differs from what the output was made from.

    With its value and the expected one; None where all is as it was, or nothing is recorded.
    """
    values = to_dict(config)
    for place in walk(type(config), given=values):
        value = _value_at(values, place.path)
        if place.role != "place" or place.path == output or not value:
            continue
        recorded, found = contents(place.path)
        if recorded is not None and (differs := difference(recorded, found)):
            name, was, now = differs[0]
            return place.path, value, f"what it held, with {name}={_short(was)}; it is {_short(now)} now"
    return None


def require_same(
    output: Path,
    found: Sequence[Change],
    may_grow: Collection[str],
    contents: Contents,
    made: Callable[[], str],
    another: str,
) -> None:
    """Raise a UserError that names every field which may not differ as it does, and the alternatives."""
    refused: list[tuple[Change, str]] = []
    for change in found:
        if change.role == "place" and change.path != OUTPUT:
            if reason := unlike(change, contents, output):
                refused.append((change, reason))
        elif change.role == "result" and not (change.path in may_grow and _has_grown(change)):
            least = " or more" if change.path in may_grow else ""
            refused.append((change, f"{shown(change.before)}{least}, with which {output} was made"))
    if not refused:
        return
    (first, expected), *others = refused
    also = "".join(f"; and {change.path}={shown(change.now)}: expected {reason}" for change, reason in others)
    values = "the old values" if others else "the old value"
    raise UserError(first.path, shown(first.now), f"{expected}{also}; {ways_out(made(), values, another)}")


def require_same_contents(output: Path, config: Any, contents: Contents, made: Callable[[], str]) -> None:
    """Raise UserError where a place that a finished run was made from holds something else now."""
    if (found := replaced(config, contents, OUTPUT)) is not None:
        path, value, expected = found
        raise UserError(path, value, f"{expected}; {ways_out(made(), 'the old content')}")


def _value_at(values: Mapping[str, Any], path: str) -> Any:
    found: Any = values
    for name in path.split("."):
        found = found[name]
    return found


def _has_grown(change: Change) -> bool:
    return isinstance(change.before, (int, float)) and change.now > change.before


def _is_one_place(before: Any, now: Any) -> bool:
    if isinstance(before, Sequence) and isinstance(now, Sequence) and not isinstance(before, str):
        return len(before) == len(now) and all(map(_is_one_place, before, now))
    texts = (str(before or ""), str(now or ""))
    if "" in texts or any("://" in text or "\0" in text for text in texts):
        return before == now
    return Path(texts[0]).resolve() == Path(texts[1]).resolve()


def _short(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_short, value))}]"
    return str(shown(value[:SHOWN_DIGITS] if isinstance(value, str) else value))
