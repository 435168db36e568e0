"""Look at a dataset: totals, classes, shapes, a contact sheet; hash its files; make its index anew.

Or at a checkpoint or an export: step, files, shapes and norms, every file hashed; or at a run: its
checkpoints.

`action=verify` hashes every file again, names each one that is not as it was written, and ends with exit
status 1 if there is one. `action=reindex` makes index and manifest anew from the tars: after a tar was
replaced on purpose, or for tars from elsewhere, of media or of latents (one float16 .npy a sample). It takes
the tars for what they are: verify first.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from core.config.settings import REQUIRED, setting
from core.errors import UserError
from core.files import instead


@dataclass(frozen=True, kw_only=True)
class Config:
    """What is looked at, and how it is shown."""

    source: str = setting(
        REQUIRED, "dataset, raw or latent; or a checkpoint, a run, or an export", shown="path or URL"
    )
    action: Literal["show", "verify", "reindex"] = setting(
        "show", "show: what is in it; verify: hash every file; reindex: index and manifest from the tars"
    )
    autoencoder: str = setting(
        "",
        "action=reindex of latents from elsewhere: folder of the autoencoder that made them, for training",
        shown="path",
    )
    quarantine_budget: float = setting(
        0.01, "the same: unusable latents that do not stop it: a fraction if below 1, else a number", low=0
    )
    format: Literal["text", "json"] = setting("text", "what is printed")
    json: str = setting("", "file that receives the same as JSON", shown="path")
    sheet: str = setting("", "PNG file that receives a contact sheet; action=show", shown="path")
    rows: int = setting(10, "rows of the contact sheet: one a class, where there are several", low=1)
    columns: int = setting(10, "pictures in a row of the contact sheet", low=1)
    processes: int = setting(1, "not used: one process reads", low=1)

    def __post_init__(self) -> None:
        if self.sheet and self.action != "show":
            raise UserError("sheet", self.sheet, "action=show, or no sheet")
        if self.autoencoder and self.action != "reindex":
            raise UserError("autoencoder", self.autoencoder, "action=reindex, or no autoencoder")


def plan(config: Config) -> list[str]:
    """Say what `run` would do."""
    if _is_export(Path(config.source)):
        from tools.inspect import exported

        return exported.plan(config)
    if _has_checkpoints(Path(config.source)):
        from tools.inspect import checkpoint

        return checkpoint.plan(config)
    _require_dataset(config)
    what = {"show": "show", "verify": "hash every file of", "reindex": "write a new index and manifest of"}
    files = [f"write {file}" for file in (config.json, config.sheet) if file]
    return [f"{what[config.action]} {config.source}", *files]


def run(config: Config) -> None:
    """Look at what lies in the source; WorkError if there is damage among the files that were hashed."""
    if _is_export(Path(config.source)):
        from tools.inspect import exported

        exported.run(config)
    elif _has_checkpoints(Path(config.source)):
        from tools.inspect import checkpoint

        checkpoint.run(config)
    else:
        from tools.inspect import dataset

        _require_dataset(config)
        dataset.run(config)


# What a source is, is asked without torch, so a mistake is told at once; hence these names once more.


def _is_export(source: Path) -> bool:
    """Whether this is the folder of an export, or the file with its weights."""
    return source.name == "model.safetensors" or (source / "export.json").is_file()


def _has_checkpoints(folder: Path) -> bool:
    """Whether this is a checkpoint, complete or not, a folder of them, or a run."""
    if not folder.is_dir() or (folder / "dataset.json").exists():
        return False
    named = folder.name.startswith("step-") or (folder / "manifest.json").exists()
    return named or (folder / "checkpoints").is_dir() or any(folder.glob("step-*"))


def _require_dataset(config: Config) -> None:
    """UserError if this is nothing that can be looked at."""
    from data.dataset.remote import url_of

    source = Path(config.source)
    if url_of(config.source):
        if config.action == "reindex":
            raise UserError("action", config.action, "a local folder as source: nothing is written to others")
        return
    if config.action == "reindex":
        wanted, expected = "*.tar", "a folder with .tar files"
    else:
        wanted, expected = (
            "dataset.json",
            "a dataset (a folder with dataset.json), a checkpoint, a run or an export",
        )
    if not source.is_dir() or not any(source.glob(wanted)):
        raise UserError("source", config.source, expected + instead(source))
