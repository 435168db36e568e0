"""Failpoints: named places where a test, or a user who wants to see recovery work, can inject a fault.

`LONGTAKE_FAULT="save.receipt@rank=1,step=7:kill"` arms one; several are separated by `;`. Without the
variable a failpoint is one truth test. Conditions may be left out. `step` counts as files and messages do,
from 1; the save after a step belongs to it. In `shard` it is the number of the tar, as in the tar's name.
Actions: `kill` (SIGKILL), `stop` (SIGSTOP), `abort`, `term`, `usr2`, `int` (the signals), `sleep=30`
(seconds), `raise` (WorkError), `enospc` (a full disk), `oom` (a GPU out of memory), `nan` (the value that
passes through is turned to NaN).
"""

from __future__ import annotations

import errno
import os
import re
import signal
import threading
import time
from dataclasses import dataclass
from typing import Any, TypeVar

from core import environment
from core.errors import UserError, WorkError

VARIABLE = "LONGTAKE_FAULT"
_SIGNALS = {
    "kill": signal.SIGKILL,
    "stop": signal.SIGSTOP,
    "abort": signal.SIGABRT,  # as a library may
    "term": signal.SIGTERM,
    "usr2": signal.SIGUSR2,
    "int": signal.SIGINT,
}
_ACTIONS = (*_SIGNALS, "sleep", "raise", "enospc", "oom", "nan")
_FORM = re.compile(
    r"(?P<name>[\w.]+)(@(?P<conditions>(rank|step)=\d+(,(rank|step)=\d+)*))?"
    rf":(?P<action>{'|'.join(_ACTIONS)})(=(?P<seconds>[\d.]+))?"
)

T = TypeVar("T")


@dataclass(frozen=True)
class Fault:
    """One armed failpoint; rank or step None means any."""

    name: str
    rank: int | None
    step: int | None
    action: str
    seconds: float


def parse(text: str) -> list[Fault]:
    """Parse the variable's form; raise UserError on anything else."""
    faults = []
    for part in filter(None, (piece.strip() for piece in text.split(";"))):
        match = _FORM.fullmatch(part)
        if match is None:
            expected = f"NAME@rank=R,step=K:ACTION with ACTION one of {', '.join(_ACTIONS)}"
            raise UserError(VARIABLE, part, expected)
        conditions = filter(None, (match["conditions"] or "").split(","))
        numbers = {name: int(value) for name, value in (item.split("=") for item in conditions)}
        faults.append(
            Fault(
                match["name"],
                numbers.get("rank"),
                numbers.get("step"),
                match["action"],
                float(match["seconds"] or 1),
            )
        )
    return faults


_thread = threading.local()
_armed: list[Fault] = parse(os.environ.get(VARIABLE, ""))
_step: int | None = None


def arm(text: str) -> None:
    """Replace what is armed in this process."""
    _armed[:] = parse(text)


def set_step(step: int) -> None:
    """Tell the failpoints which step the process is in, from 1 on, or which tar `shard` writes."""
    global _step
    _step = step


def current_step() -> int | None:
    """Return the step that this thread is in."""
    return getattr(_thread, "step", _step)


def pin_step(step: int | None) -> None:
    """Keep this thread at `step`: it finishes the work of that step while the process goes on to others."""
    _thread.step = step


def failpoint(name: str, value: T = None) -> T:  # type: ignore[assignment]
    """Do what is armed for `name` at this rank and step; returns `value` (a NaN tensor under `nan`)."""
    if not _armed:
        return value
    rank = environment.rank()
    for fault in _armed:
        if fault.name == name and fault.rank in (None, rank) and fault.step in (None, current_step()):
            return _act(fault, value)
    return value


def _act(fault: Fault, value: Any) -> Any:
    match fault.action:
        case name if name in _SIGNALS:
            os.kill(os.getpid(), _SIGNALS[name])
        case "sleep":
            time.sleep(fault.seconds)
        case "raise":
            raise WorkError(f"failpoint {fault.name} raised as {VARIABLE} asks")
        case "enospc":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), fault.name)
        case "oom":
            raise _out_of_memory(fault.name)
        case "nan":
            return value * float("nan")
    return value


def _out_of_memory(name: str) -> Exception:
    import torch  # imported here, so that a process without armed faults does not import it

    return torch.OutOfMemoryError(f"CUDA out of memory, as {VARIABLE} asks at {name}\nand more lines")
