"""Read YAML config files into plain values, and write them; the only user of OmegaConf.

There are two sorts of files. One that a person writes may refer to its own values and to the
environment, `${oc.env:NAME}`. One that a job has recorded refers to nothing: it may come from another person,
and an environment variable it asked for would be shown, recorded, and handed on. So interpolations in a
recorded file are refused, read as such or named on the command line.

A job records the resolved values, so that the record says what it did and a continued job can compare.
So that no file of the user's own puts a secret into a record, variables whose names say that they hold one
are refused. No field needs any; wandb and the drivers of storage read theirs from the environment.
"""

from __future__ import annotations

import io
import os
import re
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from core.errors import UserError
from core.files import read_text
from core.reading.json_files import require_utf8

HEADER = "# longtake: the resolved config of "  # and the job's name: first line of a recorded config
LARGEST = 1 << 22  # bytes of a config file
MOST_VALUES = 1 << 17
MOST_LEVELS = 100
_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SECRET = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|PASSPHRASE|CREDENTIAL|COOKIE|AUTH)S?(_|$)")
_REFERENCE = re.compile(r"(\\*)\$\{")


def read_yaml(file: Path) -> dict[str, Any]:
    """Read a YAML mapping that the user names, with `${...}` resolved, unless it is a recorded config.

    A key given twice is refused, and so are tags of objects. Raises UserError for a missing or unreadable
    file and for what is no YAML mapping.
    """
    text = _text(file)
    return _values(file, text, resolve=not text.startswith(HEADER))


def read_recorded(file: Path) -> dict[str, Any]:
    """Read a YAML mapping that a job has written; UserError as in `read_yaml`, and for interpolations."""
    return _values(file, _text(file), resolve=False)


def read_section(file: Path, name: str) -> dict[str, Any]:
    """Read one section of a recorded config; UserError as in `read_recorded`, and where it is missing."""
    section = read_recorded(file).get(name)
    if not isinstance(section, dict):
        raise UserError(f"{file}: {name}", section, "a section with fields")
    return section


def as_yaml(values: Mapping[str, Any]) -> str:
    """Write as YAML that both functions read back as equal values."""
    return OmegaConf.to_yaml(OmegaConf.create(_escaped(values)))


def read_inline(text: str) -> Any:
    """Read YAML typed on the command line; ValueError if it is none."""
    text = str(text)  # libyaml takes no subclass of str
    try:
        _require_bounded(text)
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from None


def _text(file: Path) -> str:
    try:
        return read_text(file, LARGEST)
    except FileNotFoundError:
        raise UserError(f"{file}: no such file") from None
    except IsADirectoryError:
        raise UserError(f"{file}: a folder, where a YAML file is expected") from None
    except UnicodeDecodeError:
        raise UserError(f"{file}: not UTF-8 text") from None
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}") from None


def _values(file: Path, text: str, *, resolve: bool) -> dict[str, Any]:
    try:
        _require_bounded(text)
        values = OmegaConf.to_container(OmegaConf.load(io.StringIO(text)), resolve=resolve)
        values = values if resolve else _plain(values)
        require_utf8(values)
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise UserError(f"{file}{line}: not valid YAML: {error.problem}") from None
    except (yaml.YAMLError, OmegaConfBaseException, OSError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{file}: not a valid config file: {_first_line(error)}") from None
    if not isinstance(values, dict) or values == {text.strip(): None}:  # a bare word reads as {word: null}
        raise UserError(f"{file}: expected fields (name: value) at the top")
    return typing.cast(dict[str, Any], values)


class _Refused(ValueError):
    """A file holds valid YAML that is not accepted."""


def _require_bounded(text: str) -> None:
    """Refuse YAML nested too deeply for parsers, and aliases that multiply values or hold themselves."""
    sizes: dict[str, int] = {}  # the number of values below each anchor
    open_values: list[tuple[str | None, int]] = [(None, 0)]  # anchor, and how many values it holds so far
    for event in yaml.parse(text, _LOADER):
        size, anchor = 0, getattr(event, "anchor", None)
        if getattr(event, "tag", None) not in (None, "!"):  # constructors of tags raise whatever they meet
            tag = event.tag.replace("tag:yaml.org,2002:", "!!")
            raise _Refused(f"tags are not read: {tag}, in line {event.start_mark.line + 1}")
        if isinstance(event, yaml.AliasEvent):
            if anchor not in sizes:
                raise _Refused(f"*{anchor} stands before the end of &{anchor}")
            size = sizes[anchor]
        elif isinstance(event, yaml.CollectionStartEvent):
            open_values.append((anchor, 1))
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, size = open_values.pop()
            sizes |= {anchor: size} if anchor else {}
        elif isinstance(event, yaml.ScalarEvent):
            size = 1
            sizes |= {anchor: size} if anchor else {}
        outer, before = open_values[-1]
        open_values[-1] = (outer, before + size)
        if len(open_values) > MOST_LEVELS:
            raise _Refused(f"nested more than {MOST_LEVELS} levels deep")
        if before + size > MOST_VALUES:
            raise _Refused(
                f"more than {MOST_VALUES} values, those that aliases (*NAME) repeat counted each time"
            )


def _environment(name: str, *default: Any) -> Any:
    """Resolve `${oc.env:NAME,DEFAULT}` for variables that may be recorded."""
    if _SECRET.search(name.upper()):
        raise _Refused(f"${{oc.env:{name}}} looks like a secret, and resolved values are recorded")
    if name in os.environ:
        return os.environ[name]
    if not default:
        raise _Refused(f"environment variable {name!r} not found")
    return None if default[0] is None else str(default[0])


OmegaConf.register_resolver("oc.env", _environment, replace=True)


def _escaped(value: Any) -> Any:
    r"""Write `${` as `\${`, with backslashes before it doubled, which OmegaConf takes as text."""
    if isinstance(value, Mapping):
        return {name: _escaped(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_escaped(item) for item in value]
    return _REFERENCE.sub(r"\1\1\\${", value) if isinstance(value, str) else value


def _plain(value: Any) -> Any:
    """Undo `_escaped`; refuse what it never leaves."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return _REFERENCE.sub(_plain_reference, value) if isinstance(value, str) else value


def _plain_reference(found: re.Match[str]) -> str:
    backslashes = len(found[1])
    if backslashes % 2 == 0:
        raise _Refused("${...} in a recorded config, where nothing is resolved; as plain text it is \\${...}")
    return "\\" * (backslashes // 2) + "${"


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
