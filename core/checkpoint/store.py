"""The `checkpoints/` folder of a run: complete checkpoints, the newest one, and which may be removed."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from core.checkpoint import format
from core.errors import WorkError
from core.faults.failpoints import failpoint
from core.files import fsync_folder, published, published_below, write_json
from core.progress import say
from core.reading import json_files
from core.reading.json_files import Malformed

HINT = "latest.json"
DAMAGED = "damaged-"
REMOVED_AT_ONCE = 16  # files; a parallel file system takes milliseconds for each, and there are two a rank


class _Numbered(TypedDict):
    number: int


@dataclass(frozen=True)
class Entry:
    """A complete checkpoint; of two of one step, that of the later attempt (higher number) is newer."""

    step: int
    number: int
    path: Path


class CheckpointStore:
    """All checkpoints of one run; a folder without its manifest is debris of a killed save."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def complete(self) -> list[Entry]:
        """Return the complete checkpoints, newest first.

        One with an unreadable manifest counts, so that it is reported, not passed over.
        """
        entries = []
        for path in self._step_folders():
            manifest = path / format.MANIFEST
            if manifest.exists():
                try:
                    number = json_files.read(manifest, _Numbered)["number"]
                except Malformed:
                    number = 0
                entries.append(Entry(format.step_of(path) or 0, number, path))
        return sorted(entries, key=lambda entry: (entry.step, entry.number), reverse=True)

    def latest(self) -> Path | None:
        """Return the newest complete checkpoint, or None where nothing was ever published here.

        Raises WorkError where checkpoints were published but none is complete any more: to start over in
        silence would throw a run away.
        """
        entries = self.complete()
        if entries:
            return entries[0].path
        damaged = published(self.folder, f"{DAMAGED}*")
        if damaged or (self.folder / HINT).exists():
            raise WorkError(
                f"{self.folder} has held checkpoints but none is complete now; restore one, "
                "or remove the folder to start from the beginning"
            )
        return None

    def new(self, step: int, attempt: str) -> Path:
        """Return the folder for the checkpoint after `step` steps."""
        return self.folder / format.folder_name(step, attempt)

    def note(self, path: Path) -> None:
        """Leave a hint that a checkpoint was published here, for `latest` and for people."""
        write_json(self.folder / HINT, {"checkpoint": path.name})

    def quarantine(self, path: Path) -> Path:
        """Set a damaged checkpoint aside under a name that no reader takes for a checkpoint."""
        target = path.with_name(DAMAGED + path.name)
        path.rename(target)
        fsync_folder(self.folder)
        return target

    def purge(self, keep_last: int, keep_every: int) -> None:
        """Remove debris, and complete checkpoints but the newest `keep_last` and those at multiples of
        `keep_every`.

        keep_every: steps, 0 = none. The manifest goes first, so that a removal cut short leaves debris, never
        a damaged checkpoint. A file that cannot be removed is reported and does not stop the run.
        """
        entries = self.complete()
        kept = {entry.path for entry in entries[: max(1, keep_last)]}
        kept |= {entry.path for entry in entries if keep_every and entry.step % keep_every == 0}
        for path in self._step_folders():
            if path not in kept:
                try:
                    (path / format.MANIFEST).unlink(missing_ok=True)
                    failpoint("save.purging")
                    remove(path)
                except OSError as error:
                    say(f"warning: {path} could not be removed: {error}")

    def _step_folders(self) -> list[Path]:
        return [path for path in published(self.folder) if format.step_of(path) is not None]


def remove(folder: Path) -> None:
    """Remove a folder of files, several at a time; OSError where one cannot be removed."""
    with ThreadPoolExecutor(REMOVED_AT_ONCE, thread_name_prefix="remove") as threads:
        for _ in threads.map(Path.unlink, published_below(folder)):
            pass
    shutil.rmtree(folder)
