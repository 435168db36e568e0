"""Tell the supervisor how each rank began and ended: one small file a rank.

An exit status says too little, and `srun` gives the highest of all ranks. Without a supervisor nothing is
written. Only light modules are imported here.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Any, Literal, TypedDict

from core import environment
from core.errors import EndedEarly, PeerLost, UserError, WorkError
from core.files import temporary_name
from core.reading import json_files

FOLDER = "LONGTAKE_ATTEMPT"  # the supervisor's folder of this start of the job
ASKED = "end-asked.json"  # in that folder: the run is to end after the step under way

Kind = Literal[
    "running", "done", "asked", "refused", "work", "memory", "peer", "device", "node", "hang", "error"
]
"""How a rank ended.  asked: early, on request.  refused: a mistake of the person's.  work: WorkError.
memory: the device's was too small.  node: found unfit before the first step.  peer: only because another rank
did.  error: a bug."""


class _Asked(TypedDict):
    why: str


_OF_PEERS = re.compile(
    r"gloo|Connection (closed|reset) by peer|Socket (closed|Timeout)|[Tt]imed out|NCCL|ProcessGroup|TCPStore"
)
_OF_DEVICE = re.compile(r"CUDA (error|driver)|CUBLAS_STATUS|CUDNN_STATUS|uncorrectable|ECC error")
_recorded: tuple[int, Path] | None = None  # the process that has recorded its end, and where


def folder() -> Path | None:
    """Return the folder in which the supervisor of this rank looks; None without one."""
    named = os.environ.get(FOLDER)
    return Path(named) if named else None


def begin() -> None:
    """Record where this rank runs."""
    _write("running", 0, "")


def record(kind: Kind, status: int, text: str) -> None:
    """Record how this rank ends; an earlier record stays."""
    global _recorded
    place = folder()
    if place is not None and _recorded != (os.getpid(), place):  # not that of the process that forked us
        _recorded = os.getpid(), place
        _write(kind, status, text)


def kind_of(error: BaseException) -> Kind:
    """Return the cause that an exception which ends a rank stands for."""
    if isinstance(error, UserError | WorkError | EndedEarly | OSError):
        refused = isinstance(error, UserError)
        return "refused" if refused else "asked" if isinstance(error, EndedEarly) else "work"
    if isinstance(error, PeerLost):
        return "peer"
    torch: Any = sys.modules.get("torch")
    if torch is None:
        return "error"
    if isinstance(error, torch.OutOfMemoryError):
        return "memory"
    if isinstance(error, torch.distributed.DistError):
        return "peer"
    if isinstance(error, RuntimeError):
        text = str(error)
        return "device" if _OF_DEVICE.search(text) else "peer" if _OF_PEERS.search(text) else "error"
    return "error"


def end_asked() -> str:
    """Return why the supervisor asks the run to end; '' while it does not."""
    place = folder()
    if place is None or not (place / ASKED).exists():
        return ""
    with contextlib.suppress(OSError, WorkError):
        return json_files.read(place / ASKED, _Asked)["why"]
    return "the supervisor"


def _write(kind: Kind, status: int, text: str) -> None:
    """Write the record, as far as the disk allows: a full one must not take the exit status away."""
    place = folder()
    if place is None:
        return
    rank = environment.rank()
    record = {"rank": rank, "node": environment.node(), "pid": os.getpid(), "time": time.time()}
    path = place / f"rank-{rank}.json"
    temporary = temporary_name(path)
    with contextlib.suppress(OSError):
        temporary.write_text(json.dumps({**record, "kind": kind, "status": status, "text": text}))
        temporary.replace(path)
