"""Shared parts of `inspect`: how findings are reported, and which fields only a dataset has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core import terminal
from core.errors import UserError, WorkError
from core.escaping import escaped_line
from core.files import write_json

if TYPE_CHECKING:
    from tools.inspect.config import Config


def refuse_dataset_fields(config: Config, this: str) -> None:
    """Raise UserError if a field asks for what only a dataset has, and the source is `this`."""
    reindex = config.action if config.action == "reindex" else ""
    for field, value in (("action", reindex), ("sheet", config.sheet)):
        if value:
            raise UserError(field, value, f"a dataset as source, and this is {this}")


def tell(config: Config, result: dict[str, Any], lines: list[str]) -> None:
    """Print and write the result; WorkError naming the damaged ones of its files."""
    if config.json:
        write_json(Path(config.json), result)
    if config.format == "json":
        terminal.deliver(json.dumps(result, indent=1, ensure_ascii=False))
    else:
        terminal.deliver("\n".join(map(escaped_line, lines)))
    if damaged := result.get("damaged"):
        raise WorkError(
            f"{len(damaged)} of {result['files']} files are not as they were written: "
            + ", ".join(entry["name"] for entry in damaged)
        )
