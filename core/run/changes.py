"""What has changed between the config an output was made with and the one it is continued with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from core.config.fields import walk
from core.config.loading import difference, to_dict, with_defaults
from core.config.settings import Role

SHOWN_DIGITS = 12  # of a fingerprint

Content = Mapping[str, Any]
Contents = Callable[[str], tuple[Content | None, Content]]
"""Takes the path of a field that names a place. Returns what the output records of the content it was made
from, None where it records nothing, and the same of what lies at the place that the field names now."""


def nothing_recorded(path: str) -> tuple[None, Content]:
    """The `Contents` of a job that records no content."""
    return None, {}


class Change(NamedTuple):
    """A field with its value in the record, its value now, and its role."""

    path: str
    before: Any
    now: Any
    role: Role


def changes(recorded: Mapping[str, Any], config: Any) -> list[Change]:
    """List the fields whose values differ; a place that is only spelled otherwise is left out.

    A field that an earlier version did not have had, in effect, the default of today. One that is no longer
    known counts as deciding the result.
    """
    schema = type(config)
    roles = {place.path: place.role for place in walk(schema, given=to_dict(config))}
    before = with_defaults(recorded, schema)
    found = [Change(*leaf, roles.get(leaf[0], "result")) for leaf in difference(before, to_dict(config))]
    return [change for change in found if change.role != "place" or not _is_one_place(*change[1:3])]


def unlike(change: Change, contents: Contents, output: Path) -> str:
    """Say why what lies at a place now cannot stand for what the output was made from; "" if it can."""
    recorded, found = contents(change.path)
    if recorded is None:
        return f"{change.before}, with which {output} was made; nothing in it says what lay there"
    if not (differs := difference(recorded, found)):
        return ""
    was = ", ".join(f"{name}={_short(before)}" for name, before, _ in differs)
    now = ", ".join(_short(value) for *_, value in differs)
    return f"what {output} was made from, with {was}; there it is {now}"


def replaced(config: Any, contents: Contents, output: str) -> tuple[str, Any, str] | None:
    """Return the first field that names a place whose content is not what the output was made from.

    With its value, and what is expected instead; None where all is as it was, or nothing is recorded.
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


def _value_at(values: Mapping[str, Any], path: str) -> Any:
    found: Any = values
    for name in path.split("."):
        found = found[name]
    return found


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
    return value[:SHOWN_DIGITS] if isinstance(value, str) else str(value)
