"""Records of a submission, kept in the output of its job: `submissions/NNNN/`.

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
from typing import Annotated, Any, NotRequired, TypedDict, TypeVar

from core import environment
from core.errors import UserError, WorkError
from core.faults.failpoints import failpoint
from core.files import published, read_text, write_json, write_text_once
from core.reading import json_files
from core.reading.json_scalars import Count, Range
from core.root import cache_folder
from core.run.claim import SUBMISSIONS
from core.run.ends import Kind

JOB_FILE = "job.yaml"
SUBMISSION = "submission.json"  # written last but for the job's number: then it is complete
LARGEST = 1 << 24  # bytes of the list of submitted jobs
LOCK = "lock"
ATTEMPT_FILE = "attempt.json"
T = TypeVar("T")
ENDED = ("done", "failed", "cancelled")


class SubmissionRecord(TypedDict):
    """The content of `submission.json`. after_output: of the job that must finish before, "" for none."""

    job: str
    cluster: dict[str, Any]
    cwd: str
    after_output: NotRequired[str]
    name: str
    process: NotRequired[str]
    slurm_job: NotRequired[str | int]


class AttemptRecord(TypedDict, total=False):
    """The content of `attempt.json` on a start of the job, as far as it is known yet."""

    name: str
    task: Count
    state: str
    reason: str
    started: float
    ended: float
    node: str
    nodes: str
    pid: Annotated[int, Range(0, 2**31 - 1)]
    status: int | None  # null where SLURM was about to end the ranks itself
    asked: bool
    failed_node: str
    excluded: str
    progress: Count
    progress_before: Count


class RankEnd(TypedDict):
    """A rank's report of how it began or ended (`core.run.ends`)."""

    rank: Count
    node: str
    pid: int
    time: float
    kind: Kind
    status: int
    text: str


class _Locked(TypedDict):
    node: str
    pid: Annotated[int, Range(0, 2**31 - 1)]
    user: str
    time: float


@dataclass(frozen=True)
class Submission:
    """One submission of a job."""

    folder: Path

    @property
    def output(self) -> Path:
        """The output of the job."""
        return self.folder.parent.parent

    @property
    def code(self) -> Path:
        """The code that the job runs."""
        return self.folder / "code"

    def read(self) -> SubmissionRecord:
        """Read what was submitted; WorkError if it is damaged or not there yet."""
        found = read_record(self.folder / SUBMISSION, SubmissionRecord)
        if found is None:
            raise WorkError(f"{self.folder} does not say what was submitted; submit it again")
        return found

    def write(self, **fields: Any) -> None:
        """Add values to `submission.json`."""
        path = self.folder / SUBMISSION
        write_json(path, {**(read_record(path, SubmissionRecord) or {}), **fields})

    def attempts(self) -> list[Path]:
        """Return the folders of its starts, oldest first."""
        found = [path for path in published(self.folder / "attempts", "*.*") if path.is_dir()]
        return sorted(found, key=lambda path: [int(part) for part in path.name.split(".") if part.isdigit()])

    def attempt_records(self, task: int | None = None) -> list[AttemptRecord]:
        """Return the records of its starts, oldest first; of one task of an array, if that is given."""
        records = [read_record(path / ATTEMPT_FILE, AttemptRecord) for path in self.attempts()]
        return [record for record in records if record and task in (None, record.get("task", 0))]

    def latest_records(self) -> list[AttemptRecord]:
        """Return the record of the last start of each task that has been started."""
        return list({record.get("task", 0): record for record in self.attempt_records()}.values())


def submissions(output: Path) -> list[Submission]:
    """Return all submissions of the job with this output, oldest first.

    The folder of one whose submitter was killed before it was complete is left out.
    """
    found = published(output / SUBMISSIONS, "[0-9]*")
    return [Submission(path) for path in found if (path / SUBMISSION).exists()]


def new_submission(output: Path) -> Submission:
    """Create a folder for the next submission."""
    before = published(output / SUBMISSIONS, "[0-9]*")
    number = int(before[-1].name) + 1 if before else 1
    folder = output / SUBMISSIONS / f"{number:04d}"
    folder.mkdir(parents=True)
    return Submission(folder)


def latest(output: Path) -> Submission:
    """Return the newest submission; UserError if there is none."""
    found = submissions(output)
    if not found:
        raise UserError("source", output, "the output of a job that was submitted")
    return found[-1]


def read_record(path: Path, schema: type[T]) -> T | None:
    """Read a record; None if there is none yet, or its file server does not answer just now.

    WorkError where it is damaged.
    """
    with contextlib.suppress(OSError):
        return json_files.read(path, schema)
    return None


@contextlib.contextmanager
def locked(output: Path) -> Any:
    """Keep other submissions of the same output out.

    UserError with owner and age while one is under way.

    The lock of a submitter that was killed on this node is taken over; one on another node cannot be seen.
    """
    path = output / SUBMISSIONS / LOCK
    path.parent.mkdir(parents=True, exist_ok=True)
    owner = {"node": environment.node(), "pid": os.getpid(), "user": getpass.getuser(), "time": time.time()}
    if (held := read_record(path, _Locked)) and held["node"] == owner["node"] and not lives(held["pid"]):
        path.unlink(missing_ok=True)
    if not write_text_once(path, json.dumps(owner)):
        held = read_record(path, _Locked)
        who = "another process"
        if held:
            age = f"{time.time() - held['time']:.0f} s"
            who = f"process {held['pid']} of {held['user']} on {held['node']} for {age}"
        raise UserError(f"{output} is being submitted by {who}; where that process has gone, remove {path}")
    try:
        failpoint("submit.locked")
        yield
    finally:
        path.unlink(missing_ok=True)


def remember(output: Path) -> None:
    """Record for `longtake jobs` that this user has submitted a job with this output."""
    path = _register()
    path.parent.mkdir(parents=True, exist_ok=True)
    known = read_text(path, LARGEST).splitlines() if path.exists() else []
    if str(output.resolve()) not in known:
        with open(path, "a", encoding="utf-8") as file:
            file.write(f"{output.resolve()}\n")


def remembered() -> list[Path]:
    """Return outputs that this user has submitted jobs for, and that still exist."""
    path = _register()
    lines = read_text(path, LARGEST).splitlines() if path.exists() else []
    return [Path(line) for line in lines if (Path(line) / SUBMISSIONS).is_dir()]


def _register() -> Path:
    return cache_folder() / "submitted.txt"


def lives(pid: int) -> bool:
    """Return whether a process of this node exists."""
    if pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
