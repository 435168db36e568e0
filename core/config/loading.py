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
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from core.config.building import assemble, check, merge, over, under
from core.config.fields import (
    FieldHelp,
    defaults_of,
    describe,
    fields_of,
    require_kinds,
    to_dict,
)
from core.config.values import Typed
from core.errors import UserError
from core.files import write_text
from core.reading.json_files import require_utf8

__all__ = [
    "FieldHelp",
    "describe",
    "difference",
    "dump",
    "from_dict",
    "help_of",
    "load",
    "read_section",
    "read_yaml",
    "save",
    "to_dict",
    "with_defaults",
]

T = TypeVar("T")
MOST_NODES = 100_000  # values of a config file, those that its aliases repeat included


def load(schema: type[T], files: Sequence[Path] = (), overrides: Sequence[str] = ()) -> T:
    """Read `files` and then `overrides` ("a.b=text") over the defaults of `schema`, later ones winning.

    A section that has kinds is of the one named last, whose fields every file and override must keep to. A
    section with `presets` starts from the preset named last. Raises UserError for whatever is wrong.
    """
    from_files = [(Path(file), read_yaml(Path(file))) for file in files]
    typed = [_inlined(_nested(override), schema) for override in overrides]
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
    """Make the config that `to_dict` took apart; the same checks as for a file."""
    return assemble(schema, [check(values, schema, values)], values)


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
    return over(defaults_of(schema, values), values)


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
        _require_plain(text)
        values = OmegaConf.to_container(OmegaConf.load(io.StringIO(text)), resolve=True)
        require_utf8(values)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{file}{line}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, OmegaConfBaseException, OSError, RecursionError, ValueError, TypeError) as error:
        raise UserError(f"{file}: not a valid config file: {_first_line(error)}") from None
    if not isinstance(values, dict) or values == {text.strip(): None}:  # it reads a bare word as {word: null}
        raise UserError(f"{file}: expected fields (name: value) at the top")
    return typing.cast(dict[str, Any], values)


def read_section(file: Path, name: str) -> dict[str, Any]:
    """Read one section of a recorded config; UserError as `read_yaml`, and where there is no such section."""
    section = read_yaml(file).get(name)
    if not isinstance(section, dict):
        raise UserError(f"{file}: {name}", section, "a section with fields")
    return section


def _require_plain(text: str) -> None:
    """YAMLError for more than text, numbers, lists and mappings: tags, and aliases beyond all measure.

    A tag asks for a type that the field has anyway, and PyYAML's constructors of some raise whatever they
    meet. An alias stands for a whole tree, so a few lines of them can stand for more than fits in memory.
    """
    sizes: dict[str, int] = {}
    open_nodes: list[list[Any]] = [["", 0]]  # anchor, nodes with those that aliases stand for
    for event in yaml.parse(text, yaml.SafeLoader):
        if getattr(event, "tag", None) is not None and event.tag != "!":
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            raise yaml.MarkedYAMLError(problem=f"tags are not read: {tag}", problem_mark=event.start_mark)
        if isinstance(event, yaml.CollectionStartEvent):
            open_nodes.append([event.anchor, 1])
        elif isinstance(event, (yaml.CollectionEndEvent, yaml.ScalarEvent, yaml.AliasEvent)):
            is_end = isinstance(event, yaml.CollectionEndEvent)
            anchor, size = open_nodes.pop() if is_end else (event.anchor, 1)
            if isinstance(event, yaml.AliasEvent):
                size = sizes.get(anchor, 1)
            elif anchor:
                sizes[anchor] = size
            open_nodes[-1][1] += size
            if open_nodes[-1][1] > MOST_NODES:
                raise yaml.MarkedYAMLError(
                    problem=f"more than {MOST_NODES:,} values", problem_mark=event.start_mark
                )


def _nested(override: str) -> dict[str, Any]:
    """Read "a.b=text" as {"a": {"b": text}}."""
    path, equals, text = override.partition("=")
    if not equals or not path.strip():
        raise UserError(f"{override}: expected field=value")
    return under(path.strip().split("."), Typed(text))


def _inlined(values: Mapping[str, Any], schema: type, path: str = "") -> dict[str, Any]:
    """Read what was typed for a section as `{a: x, b: y}`."""
    sections = {f.name: kind for f, kind, _ in fields_of(schema) if dataclasses.is_dataclass(kind)}
    result = dict(values)
    for name in sections.keys() & values.keys():
        value, where = values[name], f"{path}{name}"
        if isinstance(value, Mapping):
            result[name] = _inlined(value, typing.cast(type, sections[name]), f"{where}.")
        elif value.strip().startswith("{"):
            try:
                _require_plain(value)
                result[name] = yaml.safe_load(value)
            except (yaml.YAMLError, ValueError, RecursionError):
                expected = "fields as in YAML, {name: value, name: value}"
                raise UserError(where, value, expected) from None
    return result


@contextmanager
def _named_in_refusals(file: Path) -> Iterator[None]:
    """Have refusals within this block name the file."""
    try:
        yield
    except UserError as error:
        if error.expected is None:
            raise UserError(f"{error} (in {file})") from None
        raise UserError(error.field, error.value, f"{error.expected} (in {file})") from None


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
