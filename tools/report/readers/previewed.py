"""The pictures of a run's previews."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from core.records import Row, read_rows
from core.run.folder import PREVIEWED, PREVIEWS
from tools.report.output import Output
from tools.report.readers.trying import add_pictures, tried

MOST = 6  # steps that are shown of each average, spread over the run, with the first and the last


def add_previews(output: Output) -> None:
    """Add the overview of previews of a few steps, by average and step."""
    path = output.folder / PREVIEWED
    if not path.is_file():
        return
    rows: list[Row] = tried(output, PREVIEWED, lambda: read_rows(path), [])
    found: dict[str, list[tuple[int, str]]] = {}
    for row in rows:
        for average, part in row.items():
            if isinstance(part, dict) and isinstance(part.get("overview"), str) and "step" in row:
                name = Path(part["overview"]).name  # a record may say anything: only what lies in the folder
                if name.endswith(".png"):
                    found.setdefault(average, []).append((row["step"], name))
    for average, each in found.items():
        for place in np.unique(np.linspace(0, len(each) - 1, MOST).round().astype(int)):
            step, name = each[place]
            picture = output.folder / PREVIEWS / name
            add_pictures(output, [picture], f"preview after step {step}, average {average}")
        if len(each) > MOST:
            output.facts[f"previews of {average}"] = f"{len(each)} steps, of which {MOST} are shown"
