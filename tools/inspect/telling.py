"""Shared parts of `inspect`: how findings are reported, and which fields only a dataset has."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from core import terminal
from core.errors import UserError, WorkError
from core.escaping import escaped_line
from core.files import write_json


def refuse_dataset_fields(action: str, sheet: str, this: str) -> None:
    """Raise UserError if a field asks for what only a dataset has, and the source is `this`."""
    reindex = action if action == "reindex" else ""
    for field, value in (("action", reindex), ("sheet", sheet)):
        if value:
            raise UserError(field, value, f"a dataset as source, and this is {this}")


def tell(result: dict[str, Any], lines: list[str], form: Literal["text", "json"], file: str) -> None:
    """Print the result, as text or JSON; WorkError naming the damaged ones of its files.

    file: receives it as JSON, "" for none.
    """
    if file:
        write_json(Path(file), result)
    if form == "json":
        terminal.deliver(json.dumps(result, indent=1, ensure_ascii=False))
    else:
        terminal.deliver("\n".join(map(escaped_line, lines)))
    if damaged := result.get("damaged"):
        raise WorkError(
            f"{len(damaged)} of {result['files']} files are not as they were written: "
            + ", ".join(entry["name"] for entry in damaged)
        )
