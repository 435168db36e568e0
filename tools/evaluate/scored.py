"""The content behind the scores of `evaluate`: which samples, and which data they are compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from core.config.loading import difference
from core.errors import UserError, renamed
from core.files import fingerprint, published, sha256_file
from core.reading import json_files
from core.reading.instead import instead
from core.run.changes import Content, Contents
from core.run.ways_out import holds, ways_out
from tools.runs.samples import Samples


class _Scores(TypedDict):
    of: NotRequired[dict[str, Any]]


def require_real(real: str, heldout: str, autoencoder: str, reference: str = "") -> dict[str, str]:
    """Return the hashes of what samples are compared with.

    UserError unless it is raw datasets and an autoencoder.

    "" is none.
    """
    from data.dataset.index import Dataset

    if not real and not reference:
        raise UserError("real", "''", "the raw dataset that samples are compared with")
    found = {}
    for field, folder in {"real": real, "heldout": heldout}.items():
        if folder:
            manifest = Dataset(Path(folder), field).manifest
            if manifest.kind != "raw":
                raise UserError(field, folder, "a raw dataset; this is a latent cache")
            found[field] = manifest.fingerprint
    if autoencoder:
        from models.autoencoder.opening import identify_saved

        found["autoencoder"] = identify_saved(Path(autoencoder))["encoder"]
    if reference:
        if not Path(reference).is_file():
            raise UserError("reference", reference, f"a file{instead(Path(reference))}")
        found["reference"] = sha256_file(Path(reference))
    return found


def require_reconstructed(real: str, autoencoder: str) -> dict[str, Any]:
    """Return the hashes of an autoencoder, the `source`, and of the raw dataset that it reconstructs."""
    with renamed({"autoencoder": "source"}):
        hashes = require_real(real, "", autoencoder)
    return {"samples": {"autoencoder": hashes["autoencoder"]}, "real": hashes["real"]}


def hashes_of_weights(files: Mapping[str, str]) -> dict[str, str]:
    """Return the hash of each file, or folder of a network, by its field; "" is none.

    What is not there is left to its reader, which says what it should be.
    """
    found = {}
    for name, place in files.items():
        path = Path(place)
        if place and path.is_file():
            found[name] = sha256_file(path)
        elif place and path.is_dir():
            parts = [*published(path, "*.json"), *published(path, "*.safetensors")]
            found[name] = fingerprint({part.name: sha256_file(part) for part in parts})
    return found


def describe(source: Path, samples: Sequence[Samples], beside: dict[str, str]) -> dict[str, Any]:
    """Describe what would be scored, by folder below the source, and what is beside it (`require_real`).

    WorkError where samples.npz is not the file that samples.json tells of.
    """
    names = ("run", "checkpoint", "weights", "weights_sha256")
    folders = {
        str(s.folder.relative_to(source)): {
            **{name: s.record.get(name) for name in names},
            "samples_sha256": s.verify(),
        }
        for s in samples
    }
    return {"samples": folders, **beside}


def require_of(scores: Path, of: dict[str, Any]) -> None:
    """Raise UserError if finished scores are of other samples or data than would be scored now."""
    before = _recorded(scores)
    if before is None:  # an earlier version did not say
        return
    if differs := difference(before, {name: value for name, value in of.items() if name in before}):
        path, was, now = differs[0]
        ways = ways_out(holds(scores.parent), "the old content")
        raise UserError(f"{scores}: made with {path}={was}; now it is {now}; {ways}")


def contents(scores: Path, of: dict[str, Any]) -> Contents:
    """Return the places of `evaluate`: what finished scores are of, and what would be scored now."""

    def of_place(path: str) -> tuple[Content | None, Content]:
        before, name = _recorded(scores) if scores.exists() else None, {"source": "samples"}.get(path, path)
        recorded = None if before is None or name not in before else {name: before[name]}
        return recorded, {name: of.get(name)}

    return of_place


def _recorded(scores: Path) -> dict[str, Any] | None:
    """Return what scores are of; None where an earlier version did not say, WorkError if they are damaged."""
    return json_files.read(scores, _Scores).get("of")
