"""Config files and overrides into frozen dataclasses, and back; the only user of OmegaConf.

A config is a tree of frozen dataclasses, each beside the code that reads it, its fields made by
`core.config.settings.setting`. Later files and overrides win. In a file, `${...}` is resolved when that file
is read; everywhere else it is plain text.
"""

from __future__ import annotations

import dataclasses
import io
import re
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from core.config.fields import (
    FieldHelp,
    defaults_of,
    describe,
    fields_of,
    nearest,
    plain,
    presets_of,
    to_dict,
)
from core.config.settings import REQUIRED
from core.config.values import Typed, any_of, read_value
from core.errors import UserError
from core.files import write_text

__all__ = [
    "FieldHelp",
    "describe",
    "difference",
    "dump",
    "from_dict",
    "load",
    "read_yaml",
    "save",
    "to_dict",
    "with_defaults",
]

T = TypeVar("T")


def load(schema: type[T], files: Sequence[Path] = (), overrides: Sequence[str] = ()) -> T:
    """Read `files` and then `overrides` ("a.b=text") over the defaults of `schema`, later ones winning.

    A section with `presets` starts from the preset named last. Raises UserError for whatever is wrong.
    """
    layers = [_file_layer(Path(file), schema) for file in files]
    layers += [_checked(_nested(override), schema) for override in overrides]
    return _assembled(schema, layers)


def from_dict(schema: type[T], values: Mapping[str, Any]) -> T:
    """Make the config that `to_dict` took apart; the same checks as for a file."""
    return _assembled(schema, [_checked(values, schema)])


def dump(config: Any) -> str:
    """Write as YAML that `load` reads back as an equal config."""
    return OmegaConf.to_yaml(OmegaConf.create(_escaped(to_dict(config))))


def save(config: Any, path: Path) -> None:
    """Publish `dump(config)` under `path`."""
    write_text(path, dump(config))


def difference(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """List (path, value in a, value in b) of each leaf that differs; a side without the leaf gives None."""
    left, right = dict(_leaves(a)), dict(_leaves(b))
    paths = list(left) + [path for path in right if path not in left]
    return [(path, left.get(path), right.get(path)) for path in paths if left.get(path) != right.get(path)]


def with_defaults(values: Mapping[str, Any], schema: type) -> dict[str, Any]:
    """What `values` would be, had all fields of `schema` been given: an earlier version knew fewer."""
    return _over(defaults_of(schema), values)


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    sections = {name: part for name, part in above.items() if isinstance(part, Mapping)}
    inner = {name: _over(below.get(name) or {}, part) for name, part in sections.items()}
    return {**below, **above, **inner}


def read_yaml(file: Path) -> dict[str, Any]:
    """Read a YAML mapping with `${...}` resolved; a key given twice is refused, and so are tags of objects.

    Raises UserError for a missing or unreadable file and for what is no YAML mapping.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{file}: a folder, where a YAML file is expected") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: not UTF-8 text") from None
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from None
    try:
        values = OmegaConf.to_container(OmegaConf.load(io.StringIO(text)), resolve=True)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{file}{line}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, OmegaConfBaseException, OSError, RecursionError) as error:
        raise UserError(f"{file}: not a valid config file: {_first_line(error)}") from None
    if not isinstance(values, dict) or values == {text.strip(): None}:  # it reads a bare word as {word: null}
        raise UserError(f"{file}: expected fields (name: value) at the top")
    return typing.cast(dict[str, Any], values)


def _file_layer(file: Path, schema: type) -> dict[str, Any]:
    values = read_yaml(file)
    try:
        return _checked(values, schema)
    except UserError as error:
        if error.expected is None:
            raise UserError(f"{error} (in {file})") from None
        raise UserError(error.field, error.value, f"{error.expected} (in {file})") from None


def _nested(override: str) -> dict[str, Any]:
    """Read "a.b=text" as {"a": {"b": text}}."""
    path, equals, text = override.partition("=")
    if not equals or not path.strip():
        raise UserError(f"{override}: expected field=value")
    return _under(path.strip().split("."), Typed(text))


def _under(path: Sequence[str], tree: Any) -> dict[str, Any]:
    for name in reversed(path):
        tree = {name: tree}
    return typing.cast(dict[str, Any], tree)


def _inline(text: str, path: str) -> Any:
    """Read `{a: x, b: y}` as it was typed for a section."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(path, text, "fields as in YAML, {name: value, name: value}") from None


def _checked(values: Any, schema: type, path: str = "", root: type | None = None) -> dict[str, Any]:
    """Read the given values by the types of their fields; the result is as partial as `values`."""
    root = root or schema
    fields = {field.name: (field, kind) for field, kind in fields_of(schema)}
    if isinstance(values, Typed) and values.strip().startswith("{"):
        values = _inline(values, path)
    if not isinstance(values, Mapping):
        raise UserError(
            f"{path}={values}: a section; set its fields, such as {path}.{next(iter(fields))}=..."
        )
    checked = {}
    for name, value in values.items():
        where = f"{path}.{name}" if path else str(name)
        if name not in fields:
            raise UserError(f"{where}: no such field; the nearest is {nearest(where, root)}")
        field, kind = fields[name]
        low, high = field.metadata.get("low"), field.metadata.get("high")
        if dataclasses.is_dataclass(kind):
            checked[name] = _checked(value, typing.cast(type, kind), where, root)
        elif isinstance(value, Mapping):
            raise UserError(f"{where}.{next(iter(value), '')}: no such field; {where} holds one value")
        else:
            checked[name] = value if value == REQUIRED else read_value(value, kind, where, low, high)
    return checked


def _assembled(schema: type[T], layers: Sequence[Mapping[str, Any]]) -> T:
    trees = [_escaped(plain(layer)) for layer in [*_preset_layers(schema, layers), *layers]]
    try:
        merged = OmegaConf.merge(OmegaConf.structured(schema), *trees)
        values = OmegaConf.to_container(merged, resolve=True)
    except OmegaConfBaseException as error:  # types that the checks above let through
        raise UserError(_first_line(error)) from None
    return _built(schema, typing.cast(dict[str, Any], values))


def _preset_layers(
    schema: type, layers: Sequence[Mapping[str, Any]], path: tuple[str, ...] = ()
) -> Iterator[dict[str, Any]]:
    """Give, for each section with presets, the values of the preset named last, outer sections first."""
    presets, named = presets_of(schema), [layer["preset"] for layer in layers if "preset" in layer]
    if presets and named and named[-1]:
        if named[-1] not in presets:
            raise UserError(".".join([*path, "preset"]), named[-1], any_of(list(presets)))
        yield _under(path, to_dict(presets[named[-1]]))
    for field, kind in fields_of(schema):
        if dataclasses.is_dataclass(kind):
            inner = [layer[field.name] for layer in layers if field.name in layer]
            yield from _preset_layers(typing.cast(type, kind), inner, (*path, field.name))


def _built(schema: type[T], values: Mapping[str, Any], path: str = "") -> T:
    """Construct `schema`; a refusal of a section's `__post_init__` gets the section's path in front."""
    arguments: dict[str, Any] = {}
    for field, kind in fields_of(schema):
        where, value = f"{path}.{field.name}" if path else field.name, values[field.name]
        if dataclasses.is_dataclass(kind):
            arguments[field.name] = _built(typing.cast(type, kind), value, where)
        elif value == REQUIRED:
            raise UserError(f"{where}: required but not given: {field.metadata.get('help', '')}")
        else:
            arguments[field.name] = read_value(value, kind, where)
    try:
        return schema(**arguments)
    except UserError as error:
        if not path:
            raise
        if error.expected is None:
            raise UserError(f"{path}: {error}") from None
        raise UserError(f"{path}.{error.field}", error.value, error.expected) from None


def _escaped(value: Any) -> Any:
    r"""Write `${` as `\${`, with backslashes before it doubled, which OmegaConf takes as text."""
    if isinstance(value, dict):
        return {name: _escaped(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def _leaves(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in tree.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
