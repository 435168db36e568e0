"""Failures of units of work: a file for each unit that failed and is not done."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NotRequired, TypedDict

from core.files import published, read_head, write_json
from core.reading import json_files
from core.reading.json_files import Malformed

SUFFIX = ".failure.json"
LARGEST = 1 << 24  # bytes that are read of a failure; a longer one counts as damaged


@dataclass(frozen=True)
class Failure:
    """The errors of a unit, attempt by attempt; `final` when it is not to be tried again.

    lost: it was given up for the workers that it lost.
    """

    unit: str
    errors: tuple[str, ...]
    final: bool
    lost: bool = False


class _Written(TypedDict):
    errors: list[str]
    final: bool
    lost: NotRequired[bool]


class Failures:
    """The failures in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def all(self) -> list[Failure]:
        """Return every failure that is there, sorted by unit."""
        units = [path.name.removesuffix(SUFFIX) for path in published(self.folder, f"?*{SUFFIX}")]
        return [failure for unit in units if (failure := self.of(unit)) is not None]

    def of(self, unit: str) -> Failure | None:
        """Return the failure of a unit; None where it never failed.

        A damaged file counts as one failure, after which the unit is tried again.
        """
        path = self._path(unit)
        try:
            text = read_head(path, LARGEST).decode("utf-8", "replace")
        except FileNotFoundError:
            return None
        return _parsed(unit, text) or Failure(unit, (f"{path} is damaged: what failed is not known",), False)

    def record(self, failure: Failure) -> None:
        """Publish the failure in place of the unit's earlier one."""
        content = {"errors": list(failure.errors), "final": failure.final}
        write_json(self._path(failure.unit), content | ({"lost": True} if failure.lost else {}))

    def forget(self, unit: str) -> None:
        """Let the unit be tried as if it had never failed."""
        self._path(unit).unlink(missing_ok=True)

    def _path(self, unit: str) -> Path:
        return self.folder / f"{unit}{SUFFIX}"


def _parsed(unit: str, text: str) -> Failure | None:
    """Return the failure that the text describes; None where it describes none."""
    try:
        content = json_files.parse(text.encode(), _Written, unit)
    except Malformed:
        return None
    errors = content["errors"]
    return Failure(unit, tuple(errors), content["final"], content.get("lost", False)) if errors else None
