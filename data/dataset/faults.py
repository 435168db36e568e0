"""Reasons for setting a sample aside, and the one place where errors raised by its content are caught.

Three kinds of error meet where a sample is read and decoded. Damage (`MediaError`) concerns it alone.
A failure of storage or memory concerns every sample: the work is tried again, then the job ends, since to set
samples aside would lose good ones. Anything else is an error of this program: the sample is set aside so that
the pass goes on, its traceback is kept in `logs/` of the output, and the job ends with exit status 1.
"""

from __future__ import annotations

import hashlib
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from core.errors import UserError, WorkError
from core.files import write_text
from core.progress import counted
from core.run.folder import LOGS
from data.dataset.quarantine import read_quarantine
from data.dataset.retry import Retry
from data.media.formats import MediaError

T = TypeVar("T")

RETRY = Retry()
PROGRAM_ERROR = "error of the program: "  # begins the reason of a sample that is not at fault itself


class Fault(NamedTuple):
    """A reason why a sample cannot be used. stage: where it was found. traceback: of a program error."""

    stage: str
    error: str
    traceback: str = ""


def attempt(work: Callable[[], T], stage: str, name: str) -> T | Fault:
    """Return what `work` makes of one sample, or why the sample is to be set aside.

    name: of the sample, for warnings.  Failures of storage and memory are raised once RETRY gives them up;
    UserError, RuntimeError (WorkError, and how libraries and devices fail) and other errors of the system
    concern more than a sample and are raised at once; the queue of `encode` tries the whole shard again.
    """
    try:
        return RETRY.storage(name, work)
    except MediaError as error:
        return Fault(stage, str(error))
    except (UserError, RuntimeError, OSError, MemoryError):
        raise
    except Exception as error:
        return Fault(stage, f"{PROGRAM_ERROR}{type(error).__name__}: {error}", traceback.format_exc())


def keep_traceback(output: Path, id: int | str, fault: Fault) -> None:
    """Publish the traceback of a sample in `logs/` of the output, if it has one."""
    if fault.traceback:
        name = f"{id:09d}" if isinstance(id, int) else hashlib.sha256(id.encode()).hexdigest()[:12]
        path = output / LOGS / f"sample-{name}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, f"sample {id}, stage {fault.stage}\n{fault.traceback}")


def require_no_program_errors(output: Path) -> None:
    """Raise WorkError if a sample in the list of those set aside was lost to an error of this program."""
    lost = [e for e in read_quarantine(output) if e.error.startswith(PROGRAM_ERROR)]
    if lost:
        raise WorkError(
            f"{counted(len(lost), 'sample')} set aside by errors of this program, not of the data; the "
            f"first: {lost[0].id}: {lost[0].error} (tracebacks are in {output / LOGS}; please report them)"
        )
