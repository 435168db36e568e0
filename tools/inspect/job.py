"""Show a dataset (totals, classes, shapes, a contact sheet), verify its files or rebuild its index.

Of a checkpoint or an export it shows step, files, shapes and norms, and verifies every file; of a run, its
checkpoints.

`action=verify` hashes every file again, names each one that is not as it was written, and ends with exit
status 1 if there is one. `action=reindex` rebuilds index and manifest from the tars: after a tar was replaced
on purpose, or for tars from elsewhere, of media or of latents (one float16 .npy a sample). It trusts the
tars, so verify first.
"""

from __future__ import annotations

from pathlib import Path

from core.errors import UserError
from core.files import published
from core.reading.instead import instead
from core.run.folder import CHECKPOINTS, EXPORT, EXPORTED_WEIGHTS
from data.dataset.schema import MANIFEST
from tools.inspect.config import Config


def plan(config: Config) -> list[str]:
    """Say what `run` would do."""
    _require_run(Path(config.source), config.times)
    if _is_export(Path(config.source)):
        from tools.inspect import exported

        return exported.plan(config)
    if _has_checkpoints(Path(config.source)):
        from tools.inspect import checkpoint

        return checkpoint.plan(config)
    _require_dataset(config.source, config.action)
    what = {"show": "show", "verify": "hash every file of", "reindex": "write a new index and manifest of"}
    files = [f"write {file}" for file in (config.json, config.sheet, config.pixels) if file]
    return [f"{what[config.action]} {config.source}", *files]


def run(config: Config) -> None:
    """Look at what is at the source; WorkError if there is damage among the files that were hashed."""
    _require_run(Path(config.source), config.times)
    if _is_export(Path(config.source)):
        from tools.inspect import exported

        exported.run(config)
    elif _has_checkpoints(Path(config.source)):
        from tools.inspect import checkpoint

        checkpoint.run(config)
    else:
        from tools.inspect import dataset

        _require_dataset(config.source, config.action)
        dataset.run(config)


def _require_run(source: Path, times: str) -> None:
    """Refuse to fit times to the losses of what is no run."""
    if times and (_is_export(source) or not _has_checkpoints(source)):
        raise UserError("times", times, "'' unless source is a run")


# The kind of a source is determined without torch, so that a mistake is reported at once.


def _is_export(source: Path) -> bool:
    """Return whether this is the folder of an export, or the file with its weights."""
    is_shard = source.suffix == ".safetensors" and (source.parent / EXPORT).is_file()
    return source.name == EXPORTED_WEIGHTS or is_shard or (source / EXPORT).is_file()


def _has_checkpoints(folder: Path) -> bool:
    """Return whether this is a checkpoint, complete or not, a folder of them, or a run."""
    if not folder.is_dir() or (folder / MANIFEST).exists():
        return False
    named = folder.name.startswith("step-") or (folder / "manifest.json").exists()
    return named or (folder / CHECKPOINTS).is_dir() or bool(published(folder, "step-*"))


def _require_dataset(place: str, action: str) -> None:
    """Raise UserError if this is nothing that can be looked at."""
    from data.dataset.remote.remote_folder import url_of

    source = Path(place)
    if url_of(place):
        if action == "reindex":
            raise UserError("action", action, "a local folder as source: nothing is written to others")
        return
    if action == "reindex":
        wanted, expected = "*.tar", "a folder with .tar files"
    else:
        wanted, expected = (
            MANIFEST,
            f"a dataset (a folder with {MANIFEST}), a checkpoint, a run or an export",
        )
    if not source.is_dir() or not published(source, wanted):
        raise UserError("source", place, expected + instead(source))
