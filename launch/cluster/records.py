"""What is kept of a submission in the output of its job: `submissions/NNNN/`.

`submission.json` (the command, the cluster section, SLURM's job), `job.yaml` (the resolved config), `code/`
(the code that runs, whatever happens to the checkout), `submitit/` (its script and logs), and for each start
of the job `attempts/JOB.RESTART/`: `attempt.json`, what the ranks wrote, and how each began and ended.

Files here are replaced whole and read by anybody at any time; a reader that comes too early finds nothing.
"""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core import environment
from core.errors import UserError
from core.files import cache_folder, published, read_text, write_json
from core.run.claim import SUBMISSIONS

JOB_FILE = "job.yaml"
LOCK = "lock"
ENDED = ("done", "failed", "cancelled")


@dataclass(frozen=True)
class Submission:
    """One submission of a job."""

    folder: Path

    @property
    def output(self) -> Path:
        """The job's output."""
        return self.folder.parent.parent

    @property
    def code(self) -> Path:
        """The code that it runs."""
        return self.folder / "code"

    def read(self) -> dict[str, Any]:
        """What was submitted."""
        return read_record(self.folder / "submission.json") or {}

    def write(self, **fields: Any) -> None:
        """Add to it."""
        write_json(self.folder / "submission.json", {**self.read(), **fields})

    def attempts(self) -> list[Path]:
        """The folders of its starts, oldest first."""
        found = [path for path in published(self.folder / "attempts", "*.*") if path.is_dir()]
        return sorted(found, key=lambda path: [int(part) for part in path.name.split(".") if part.isdigit()])

    def attempt_records(self, task: int | None = None) -> list[dict[str, Any]]:
        """What is known of its starts, oldest first; of one task of an array, if that is given."""
        records = [read_record(path / "attempt.json") for path in self.attempts()]
        return [record for record in records if record and task in (None, record.get("task", 0))]

    def latest_records(self) -> list[dict[str, Any]]:
        """What is known of the last start of each task that has been started."""
        return list({record.get("task", 0): record for record in self.attempt_records()}.values())


def submissions(output: Path) -> list[Submission]:
    """All submissions of the job with this output, oldest first."""
    return [Submission(path) for path in published(output / SUBMISSIONS, "[0-9]*")]


def new_submission(output: Path) -> Submission:
    """A folder for the next submission."""
    before = submissions(output)
    number = int(before[-1].folder.name) + 1 if before else 1
    folder = output / SUBMISSIONS / f"{number:04d}"
    folder.mkdir(parents=True)
    return Submission(folder)


def latest(output: Path) -> Submission:
    """The newest submission; UserError where there is none."""
    found = submissions(output)
    if not found:
        raise UserError("source", output, "the output of a job that was submitted")
    return found[-1]


def read_record(path: Path) -> dict[str, Any] | None:
    """A record, None where there is none yet, or its file server does not answer just now."""
    with contextlib.suppress(OSError, ValueError):
        return dict(json.loads(path.read_text(encoding="utf-8")))
    return None


@contextlib.contextmanager
def locked(output: Path) -> Any:
    """Keep other submissions of the same output out; UserError with owner and age while one is at it.

    The lock of a submitter that was killed on this node is taken over; one on another node cannot be seen.
    """
    path = output / SUBMISSIONS / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    owner = {"node": environment.node(), "pid": os.getpid(), "user": getpass.getuser(), "time": time.time()}
    if (held := read_record(path)) and held["node"] == owner["node"] and not lives(held["pid"]):
        path.unlink(missing_ok=True)
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
    except FileExistsError:
        held = read_record(path) or {"node": "?", "pid": "?", "user": "?", "time": time.time()}
        raise UserError(
            f"{output} is being submitted by process {held['pid']} of {held['user']} on {held['node']} for "
            f"{time.time() - held['time']:.0f} s; where that process has gone, remove {path}"
        ) from None
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            json.dump(owner, file)
        yield
    finally:
        path.unlink(missing_ok=True)


def remember(output: Path) -> None:
    """Note for `longtake jobs` that this user has submitted something there."""
    path = _register()
    path.parent.mkdir(parents=True, exist_ok=True)
    known = read_text(path).splitlines() if path.exists() else []
    if str(output.resolve()) not in known:
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{output.resolve()}\n")


def remembered() -> list[Path]:
    """Outputs that this user has submitted jobs for, and that are still there."""
    path = _register()
    lines = read_text(path).splitlines() if path.exists() else []
    return [Path(line) for line in lines if (Path(line) / SUBMISSIONS).is_dir()]


def _register() -> Path:
    return cache_folder() / "submitted.txt"


def lives(pid: int) -> bool:
    """Whether a process of this node exists."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
