"""Fit a density of training times to the losses of a finished run."""

from __future__ import annotations

from pathlib import Path

from core.diffusion.time_density import fitted
from core.errors import UserError
from core.files import write_text
from core.records import read_rows
from core.run.folder import FINISHED, METRICS

LAST = 4  # the last so many-th part of the run's steps counts


def write_density(run: Path, file: Path) -> list[str]:
    """Write the density, a part a line from data to noise; return lines that say what it is of.

    UserError for a run that is not finished, or has no losses by decile.
    """
    if not (run / FINISHED).is_file():
        raise UserError("source", run, f"a finished run, with times={file}")
    rows = [row for row in read_rows(run / METRICS) if row.get("loss_by_decile")]
    last = rows[-max(1, len(rows) // LAST) :]
    density = fitted([row["loss_by_decile"] for row in last])
    write_text(file, "".join(f"{value!r}\n" for value in density))
    return [f"density of times, by the mean loss of {len(last)} steps in each decile: {file}"]
