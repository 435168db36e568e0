"""The run in Weights & Biases: a view of what the run's own files record, which may fail at any time."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from core.files import atomic_file
from core.progress import say


class WandbView:
    """Shows rows, each step once: what a restart or a rollback brings again is not sent a second time.

    Whatever wandb does wrong (not installed, no network, no key) ends the view with a warning, never the run.
    """

    def __init__(self, folder: Path, project: str, run_config: Mapping[str, Any]) -> None:
        self._run: Any = None
        try:
            self._run = _start(folder, project, run_config)
            self._shown = int(getattr(self._run, "step", 0)) - 1  # wandb's is the step that comes next
        except Exception as error:  # the record does not depend on it
            say(f"warning: wandb could not start, metrics go to files only: {error}")

    def show(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Metrics rows, in order; lists are left out."""
        for row in rows:
            if self._run is not None and row["step"] > self._shown:
                self._log({name: v for name, v in row.items() if not isinstance(v, list)}, row["step"])

    def show_validation(self, row: Mapping[str, Any]) -> None:
        """A validation row, beside the metrics of its step, which were shown before."""
        if self._run is not None and row["step"] == self._shown:
            losses = {name: part["loss"] for name, part in row.items() if name != "step"}
            self._log({f"validation/{name}": loss for name, loss in losses.items()}, row["step"])

    def close(self) -> None:
        """Finish the view."""
        if self._run is not None:
            self._run.finish()

    def _log(self, values: Mapping[str, Any], step: int) -> None:
        try:
            self._run.log(dict(values), step=step)
            self._shown = step
        except Exception as error:  # a view over the network may fail in any way
            say(f"warning: wandb failed and is off from here on: {error}")
            self._run = None


def _start(folder: Path, project: str, run_config: Mapping[str, Any]) -> Any:
    """The run in wandb, under the id kept in the run folder."""
    import wandb  # an extra, and slow to import

    identity = folder / "wandb.json"
    if not identity.exists():
        with atomic_file(identity, "w") as file:
            json.dump({"id": secrets.token_hex(4)}, file)
    project = os.environ.get("WANDB_PROJECT", project)
    name = json.loads(identity.read_text(encoding="utf-8"))["id"]
    return wandb.init(project=project, id=name, resume="allow", dir=folder, config=dict(run_config))
