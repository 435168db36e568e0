"""Records of a training run on its content and its work, for the command that continues it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core import environment
from core.checkpoint.reader import CheckpointReader
from core.checkpoint.store import CheckpointStore
from core.errors import WorkError, below
from core.metrics.rows import MetricsConfig
from core.metrics.trackers.kinds import require_installed
from core.progress import counted, duration
from core.records import number, read_rows
from core.run.changes import Content, Contents
from core.run.claim import INITIAL_FIELD, has_begun
from core.run.folder import CHECKPOINTS, FINISHED, LATENTS, METRICS
from core.run.ways_out import holds
from data.dataset.index import Dataset
from data.loading.sources.kinds import LatentFacts
from tools.runs.begun import initial_content
from tools.runs.path_record import DENSITY_FIELD, RATES_FIELD, density_content, rates_content
from tools.runs.space_record import ADDED_LATER, read_space


def steps_made(run: Path) -> str:
    """Say what overwriting a run would cost: its steps and their time, by `metrics.jsonl`."""
    rows = read_rows(run / METRICS)
    if not rows:
        return holds(run)
    seconds = sum(number(row, "seconds") or 0.0 for row in rows)
    return f"{counted(rows[-1].get('step', len(rows)), 'step')} of training, {duration(seconds)} by {METRICS}"


def require_trackers(output: Path, metrics: MetricsConfig, *, overwrite: bool, done: str = FINISHED) -> None:
    """Raise UserError if a new run asks for a tracker that is not installed.

    A run that continues goes on without it.

    done: the file that makes the output complete.
    """
    if (overwrite and not environment.restarts()) or not has_begun(output, done):
        with below("metrics"):
            require_installed(metrics.trackers)


def latent_contents(
    run: Path, facts: LatentFacts, initial: str = "", rates: str = "", density: str = ""
) -> Contents:
    """Return the places of `train`: what its `latents.json` records, and what its source is made from now.

    initial: the field of that name, whose weights `initial.json` records.  rates: the file of a path's rates,
    which `latents.json` holds.  density: the file of a density of times, likewise.
    """
    caches = sorted(facts.parts.values()) if len(facts.parts) > 1 else [facts.fingerprint]

    def contents(path: str) -> tuple[Content | None, Content]:
        if path == INITIAL_FIELD:
            return initial_content(run, initial, "train")
        if path == RATES_FIELD:
            return rates_content(run, rates)
        if path == DENSITY_FIELD:
            return density_content(run, density)
        found: dict[str, Any] = {
            "cache": caches,
            "encoder": facts.encoder,
            "text": facts.text_encoder,
        }
        names = {"autoencoder": ("encoder",), "data.online.text_encoder": ("text",)}.get(path, ("cache",))
        found = {name: found[name] for name in names}
        if not (run / LATENTS).is_file():
            return None, found
        kept = ADDED_LATER | read_space(run)
        begun = kept["cache"]
        kept["cache"] = sorted(begun.values()) if isinstance(begun, dict) else [begun]
        return {name: kept[name] for name in names}, found

    return contents


def raw_contents(run: Path, dataset: Dataset, initial: str = "") -> Contents:
    """Return the places of `train-autoencoder`: the data's fingerprint, in checkpoints, and `initial`."""

    def contents(path: str) -> tuple[Content | None, Content]:
        if path == INITIAL_FIELD:
            return initial_content(run, initial, "train-autoencoder")
        found = {"data": dataset.manifest.fingerprint}
        for entry in CheckpointStore(run / CHECKPOINTS).complete():
            try:
                return {"data": CheckpointReader(entry.path).state()["identity"]["data"]}, found
            except (WorkError, OSError, ValueError, KeyError):
                continue  # damaged, which `resume` reports; the one before it was of the same data
        return None, found

    return contents
