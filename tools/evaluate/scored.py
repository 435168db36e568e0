"""What the scores of `evaluate` are of: which samples, against which data, by content."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NotRequired, TypedDict

from core.config.loading import difference
from core.errors import UserError
from core.reading import json_files
from core.run.changes import Content, Contents
from core.run.ways_out import holds, ways_out
from tools.runs.samples import Samples

if TYPE_CHECKING:
    from tools.evaluate.config import Config

OF = "of"  # in scores.json


class _Scores(TypedDict):
    of: NotRequired[dict[str, Any]]


def require_real(config: Config) -> dict[str, str]:
    """Hashes of what samples are compared with; UserError unless it is raw datasets and an autoencoder."""
    from data.dataset.index import Dataset

    found = {}
    for field in ("real", "heldout"):
        if folder := getattr(config, field):
            manifest = Dataset(Path(folder), field).manifest
            if manifest.kind != "raw":
                raise UserError(field, folder, "a raw dataset; this is a latent cache")
            found[field] = manifest.fingerprint
    if config.autoencoder:
        from models.autoencoder.opening import identify_saved

        found["autoencoder"] = identify_saved(Path(config.autoencoder))["encoder"]
    return found


def describe(config: Config, samples: Sequence[Samples]) -> dict[str, Any]:
    """What would be scored, by folder below the source, and what is beside it.

    WorkError where samples.npz is not the file that samples.json tells of.
    """
    names = ("run", "checkpoint", "weights", "weights_sha256")
    folders = {
        str(s.folder.relative_to(Path(config.source))): {
            **{name: s.record.get(name) for name in names},
            "samples_sha256": s.verify(),
        }
        for s in samples
    }
    return {"samples": folders, **require_real(config)}


def require_of(scores: Path, of: dict[str, Any]) -> None:
    """UserError where finished scores are of other samples or data than would be scored now."""
    before = _recorded(scores)
    if before is None:  # an earlier version did not say
        return
    if differs := difference(before, of):
        path, was, now = differs[0]
        ways = ways_out(holds(scores.parent), "the old content")
        raise UserError(f"{scores}: made with {path}={was}; now it is {now}; {ways}")


def contents(scores: Path, of: dict[str, Any]) -> Contents:
    """The places of `evaluate`: what finished scores are of, and what would be scored now."""

    def of_place(path: str) -> tuple[Content | None, Content]:
        before, name = _recorded(scores) if scores.exists() else None, {"source": "samples"}.get(path, path)
        return (None if before is None else {name: before.get(name)}), {name: of.get(name)}

    return of_place


def _recorded(scores: Path) -> dict[str, Any] | None:
    """What scores are of; None where an earlier version did not say, WorkError where they are damaged."""
    return json_files.read(scores, _Scores).get("of")
