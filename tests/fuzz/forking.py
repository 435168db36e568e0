"""A process that has imported the project and runs each command line in a forked child.

Started as a program, it reads one request a line from standard input, a JSON object, and answers with one
line. It imports only, so when it forks it has one thread and no pool of a numeric library.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from core.root import ROOT

LIMIT_S = 60.0
LIMIT_BYTES = 1 << 30
TIMED_OUT = -1
_POLL_S = 0.005


@dataclass(frozen=True)
class Ended:
    """The end of a command line. status: TIMED_OUT past LIMIT_S, else below 0 by a signal. peak: bytes."""

    status: int
    peak: int
    seconds: float
    stdout: str
    stderr: str


class ForkServer:
    """Runs command lines in children of one process, within a `with` block."""

    def __enter__(self) -> ForkServer:
        words = [sys.executable, "-m", "tests.fuzz.forking"]
        self._process = subprocess.Popen(
            words, cwd=ROOT, env=environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.communicate()

    def run(self, words: Sequence[str], folder: Path, fault: str = "", *, alone: bool = False) -> Ended:
        """Run `longtake WORDS` in a folder.  fault: what to arm of `core.faults.failpoints`.

        alone: in a process that imports for itself; without a fault. This process starts it all the same,
        since the peak of a child counts what its parent has at that moment, and a worker of pytest has much.
        """
        request = json.dumps({"words": list(words), "folder": str(folder), "fault": fault, "alone": alone})
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{request}\n")
        self._process.stdin.flush()
        return Ended(**json.loads(self._process.stdout.readline()))


def environment() -> dict[str, str]:
    """Return the environment of every process of these tests."""
    one = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "DS_ACCELERATOR": "cpu"}
    return {**os.environ, **one, "PYTHONPATH": str(ROOT)}


def _start(words: Sequence[str], folder: Path) -> int:
    """Start `longtake WORDS` in a folder as a process of its own; return its id."""
    with open(folder / "stdout.txt", "wb") as out, open(folder / "stderr.txt", "wb") as err:
        command = [sys.executable, "-m", "launch", *words]
        return subprocess.Popen(command, cwd=folder, env=environment(), stdout=out, stderr=err).pid


def _awaited(pid: int, folder: Path) -> Ended:
    """Wait for a child, and kill it at the time limit."""
    began = time.monotonic()
    while (seconds := time.monotonic() - began) < LIMIT_S:
        found, status, used = os.wait4(pid, os.WNOHANG)
        if found:
            code = os.waitstatus_to_exitcode(status)
            break
        time.sleep(_POLL_S)
    else:
        os.kill(pid, signal.SIGKILL)
        _, _, used = os.wait4(pid, 0)
        code = TIMED_OUT
    texts = [(folder / name).read_text(errors="replace") for name in ("stdout.txt", "stderr.txt")]
    return Ended(code, used.ru_maxrss << 10, seconds, *texts)


def _serve() -> None:
    from launch import jobs

    for job in (*jobs.COMMANDS, *jobs.JOBS):
        job.load()
    import av  # noqa: F401
    import deepspeed  # noqa: F401
    import torch._dynamo
    import torch.onnx  # noqa: F401
    import webdataset  # noqa: F401

    gc.freeze()
    for line in sys.stdin:
        request = json.loads(line)
        folder = Path(request["folder"])
        pid = _start(request["words"], folder) if request["alone"] else os.fork()
        if not pid:
            _become(request["words"], folder, request["fault"])
        print(json.dumps(asdict(_awaited(pid, folder))), flush=True)


def _become(words: list[str], folder: Path, fault: str) -> None:
    """Become the process of a command line, in a child; never returns."""
    status = 1
    try:
        status = _run(words, folder, fault)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _run(words: list[str], folder: Path, fault: str) -> Any:
    from core.faults import failpoints
    from launch import cli

    os.chdir(folder)
    for name, descriptor in (("stdout.txt", 1), ("stderr.txt", 2)):
        os.dup2(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), descriptor)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (4 * LIMIT_BYTES, hard))
    sys.argv = ["longtake", *words]
    failpoints.arm(fault)
    return cli.main()


if __name__ == "__main__":
    _serve()
