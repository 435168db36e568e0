"""Load config files and overrides into frozen dataclasses, and write these back.

A config is a tree of frozen dataclasses, each beside the code that reads it, its fields made by
`core.config.settings.setting`. Later files and overrides win. In a file that a person wrote, `${...}` is
resolved when that file is read; everywhere else it is plain text.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from core.config.building import assemble, check, merge, over, under
from core.config.fields import (
    FieldHelp,
    defaults_of,
    describe,
    fields_of,
    require_kinds,
    to_dict,
)
from core.config.values import Typed, text_of
from core.config.yaml_files import as_yaml, read_inline, read_yaml
from core.errors import UserError
from core.files import write_text

__all__ = [
    "FieldHelp",
    "describe",
    "difference",
    "dump",
    "from_dict",
    "help_of",
    "load",
    "save",
    "to_dict",
    "with_defaults",
]

T = TypeVar("T")


def load(
    schema: type[T], files: Sequence[Path] = (), overrides: Sequence[str] = (), *, beside: Sequence[str] = ()
) -> T:
    """Read `files` and then `overrides` ("a.b=text") over the defaults of `schema`, later ones winning.

    Two files of one section (in a folder of its name) that contradict each other are refused.
    beside: sections that files may have for others who read them; they are passed over.
    A section that has kinds is of the one named last, whose fields every file and override must keep to. A
    section with `presets` starts from the preset named last. Raises UserError for whatever is wrong.
    """
    from_files = [(Path(file), read_yaml(Path(file))) for file in files]
    _require_one_of_a_section(from_files)
    from_files = [
        (file, {name: value for name, value in values.items() if name not in beside})
        for file, values in from_files
    ]
    typed = [_inlined(_nested(override), schema) for override in overrides]
    typed = _gathered(typed, schema)
    given = merge([*(values for _, values in from_files), *typed])
    for file, values in from_files:
        with _named_in_refusals(file):
            require_kinds(schema, values)
    for values in typed:
        require_kinds(schema, values)
    layers = []
    for file, values in from_files:
        with _named_in_refusals(file):
            layers.append(check(values, schema, given))
    layers += [check(values, schema, given) for values in typed]
    return assemble(schema, layers, given)


def help_of(schema: type, files: Sequence[Path] = (), overrides: Sequence[str] = ()) -> list[FieldHelp]:
    """List the fields of `schema`, of the kinds of sections that files and overrides name."""
    layers = [*(read_yaml(Path(file)) for file in files), *(_nested(override) for override in overrides)]
    return describe(schema, merge(layers))


def from_dict(schema: type[T], values: Mapping[str, Any]) -> T:
    """Rebuild the config that `to_dict` converted, with the same checks as for a file."""
    return assemble(schema, [check(values, schema, values)], values)


def dump(config: Any) -> str:
    """Write as YAML that `load` reads back as an equal config."""
    return as_yaml(to_dict(config))


def save(config: Any, path: Path) -> None:
    """Publish `dump(config)` under `path`."""
    write_text(path, dump(config))


def difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """List (path, value in a, value in b) of each leaf that differs; a side without the leaf gives None."""
    left, right = dict(_leaves(a)), dict(_leaves(b))
    paths = list(left) + [path for path in right if path not in left]
    return [(path, left.get(path), right.get(path)) for path in paths if left.get(path) != right.get(path)]


def with_defaults(values: Mapping[str, Any], schema: type) -> dict[str, Any]:
    """Complete a record with what it stands for in fields that earlier versions of `schema` did not have."""
    return over(defaults_of(schema, values, earlier=True), values)


def _nested(override: str) -> dict[str, Any]:
    """Read "a.b=text" as {"a": {"b": text}}."""
    path, equals, text = override.partition("=")
    if not equals or not path.strip():
        raise UserError(f"{override}: expected field=value")
    return under(path.strip().split("."), Typed(text))


def _gathered(typed: Sequence[dict[str, Any]], schema: Any) -> list[dict[str, Any]]:
    """Make one list of a field that is typed several times, where it takes that (`setting(repeats=True)`)."""
    result, texts = [], dict[str, list[str]]()
    repeating = {field.name for field in dataclasses.fields(schema) if field.metadata["repeats"]}
    for values in typed:
        (name, value), *_ = values.items()
        if name in repeating and isinstance(value, Typed):
            texts.setdefault(name, []).append(value)
        else:
            result.append(values)
    for name, found in texts.items():
        lists = [value for value in found if value.strip().startswith("[")]
        if len(found) > 1 and lists:
            raise UserError(name, lists[0], "one list, or one text each time where it is typed several times")
        result.append({name: [text_of(value) for value in found] if len(found) > 1 else found[0]})
    return result


def _inlined(values: Mapping[str, Any], schema: type, path: str = "") -> dict[str, Any]:
    """Read a section typed as `{a: x, b: y}`."""
    sections = {f.name: kind for f, kind, _ in fields_of(schema) if dataclasses.is_dataclass(kind)}
    result = dict(values)
    for name in sections.keys() & values.keys():
        value, where = values[name], f"{path}{name}"
        if isinstance(value, Mapping):
            result[name] = _inlined(value, typing.cast(type, sections[name]), f"{where}.")
        elif value.strip().startswith("{"):
            try:
                result[name] = read_inline(value)
            except ValueError:
                expected = "fields as in YAML, {name: value, name: value}"
                raise UserError(where, value, expected) from None
    return result


def _require_one_of_a_section(from_files: Sequence[tuple[Path, Mapping[str, Any]]]) -> None:
    """Refuse two files of one section, such as configs/model/a.yaml and b.yaml, that contradict each other.

    A file of a section lies in a folder of its name. Any other later file wins over earlier ones.
    """
    for number, (second, above) in enumerate(from_files):
        for first, below in from_files[:number]:
            section = second.parent.name
            if first.parent.name != section or section not in below or section not in above:
                continue
            for path, one, other in difference({section: below[section]}, {section: above[section]}):
                if one is not None and other is not None:
                    expected = f"one file of the section {section}, and {first} has {path}={one}"
                    raise UserError(path, other, f"{expected} (in {second})")


@contextmanager
def _named_in_refusals(file: Path) -> Iterator[None]:
    """Name the file in refusals raised within this block."""
    try:
        yield
    except UserError as error:
        if error.expected is None:
            raise UserError(f"{error} (in {file})") from None
        raise UserError(error.field, error.value, f"{error.expected} (in {file})") from None


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
